"""The `mmllm` command: each subcommand is a few lines that hand over to the module that does it.

Nothing heavy is imported before a subcommand needs it, so ls, check, show and cp answer without torch.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mmllm import __version__, connectors, registry
from mmllm.errors import MmllmError
from mmllm.recipe.files import copy_recipe, find_recipe, shipped

Parsers = Any
"""argparse's object that collects subcommands; it has no public name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Exit code: 0, 2 for anything the user can fix, 130 when interrupted, or the launcher's."""
    arguments = _parse(argv)
    run: Callable[[argparse.Namespace], int | None] = arguments.run
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a recipe's own "module:Class" may lie where the user stands
    try:
        return run(arguments) or 0
    except (MmllmError, registry.UnknownName) as error:
        for sentence in str(error).splitlines():
            print(f"mmllm: {sentence}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `mmllm ls | head`: the reader left, and Python's own flush at exit would complain
        sys.stdout = None
        return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; overrides may also stand after options, which argparse alone does not allow."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and ("overrides" not in arguments or any(word.startswith("-") for word in rest)):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def _parser() -> argparse.ArgumentParser:
    """Every subcommand with its arguments."""
    parser = argparse.ArgumentParser(prog="mmllm", description="Write a recipe, get a multimodal LLM.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _recipe_commands(commands)
    _run_commands(commands)
    return parser


def _recipe_commands(commands: Parsers) -> None:
    """Add the commands that work on recipes alone."""
    ls = _command(commands, "ls", _ls, "list the parts and recipes there are, or say all of one part")
    ls.add_argument(
        "name", nargs="?", metavar="NAME", help=f"{', '.join([*registry.groups(), 'recipes'])}, a part or module:Class"
    )
    check = _command(commands, "check", _check, "validate a recipe and what it names: print every error")
    _recipe_argument(check)
    check.add_argument("--syntax", action="store_true", help="only the recipe's own words; open nothing that it names")
    check.add_argument("--trust-code", action="store_true", help="import the user's own classes that a run names")
    show = _command(commands, "show", _show, "print a recipe (or a run's) with every value resolved")
    _recipe_argument(show, optional=True)
    show.add_argument("--schema", action="store_true", help="print the JSON schema of recipes, for editors")
    inspect = _command(commands, "inspect", _inspect, "show what a model will see of a recipe's data")
    _recipe_argument(inspect)
    inspect.add_argument("--data", metavar="KEY", help="only this entry of the recipe's data")
    inspect.add_argument("--rows", type=int, default=3, metavar="N", help="first N rows of each (default: 3)")
    inspect.add_argument("--row", type=int, action="append", default=[], metavar="NUMBER", help="this row, from 1")
    inspect.add_argument("--html", type=Path, metavar="FILE", help="write a page that needs nothing else")
    cp = _command(commands, "cp", _cp, "copy a shipped recipe, and the miniature parts it names")
    cp.add_argument("name", help="as `mmllm ls recipes` prints it")
    cp.add_argument("destination", type=Path, help="file or folder")


def _run_commands(commands: Parsers) -> None:
    """Add the commands that train or use a run."""
    train = _command(commands, "train", _train, "train all stages of a recipe; resumes where it stopped")
    _recipe_argument(train)
    train.add_argument("--gpus", type=int, default=1, help="ranks per node (default: 1, in this process)")
    train.add_argument("--nodes", type=Path, help="DeepSpeed hostfile")
    train.add_argument("--out", type=Path, help="run folder (default: runs/<name>)")
    _trust_arguments(train)
    evaluate = _command(commands, "eval", _eval, "score a run on benchmarks")
    evaluate.add_argument(
        "--benchmarks", nargs="+", metavar="NAME", help="instead of the recipe's: NAME, or NAME={path: FOLDER}"
    )
    evaluate.add_argument("--limit", type=int, help="only the first N questions of each")
    evaluate.add_argument("--blind", action="store_true", help="also score the text-only baseline: without the media")
    evaluate.add_argument("--out", type=Path, help="folder for results and predictions (default: the run)")
    chat = _command(commands, "chat", _chat, "talk to a run in the terminal")
    serve = _command(commands, "serve", _serve, "serve a run over an OpenAI-shaped HTTP API")
    for parser in (evaluate, chat, serve):
        _run_argument(parser)
    serve.add_argument("--host", help="default: the recipe's")
    serve.add_argument("--port", type=int, help="default: the recipe's")
    _command(commands, "demo", _demo, "train, score and try the miniature model")


def _command(commands: Parsers, name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> Any:
    """One subcommand's parser."""
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _run_argument(parser: argparse.ArgumentParser) -> None:
    """RUN, overrides of what did not shape its weights, and how much is trusted."""
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="eval, serve, llm.context, paths of parts")
    _trust_arguments(parser)
    parser.add_argument("--trust-code", action="store_true", help="import the user's own classes that the run names")


def _trust_arguments(parser: argparse.ArgumentParser) -> None:
    """What a changed run is met with."""
    parser.add_argument(
        "--accept", choices=["changed"], help="go on where tokenizer, template, preprocessing or data have changed"
    )
    parser.add_argument("--verify", action="store_true", help="hash frozen weights anew even where no file has changed")


def _trust(arguments: argparse.Namespace) -> Any:
    from mmllm.checkpoints.load import Trust

    return Trust(arguments.accept is not None, arguments.verify, arguments.trust_code)


def _recipe_argument(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """RECIPE and its overrides."""
    parser.add_argument("recipe", nargs="?" if optional else None, help="file, run folder or name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="e.g. stages.align.batch=64")


def _ls(arguments: argparse.Namespace) -> None:
    name = arguments.name
    known = [*registry.groups(), *registry.FORMER, "recipes"]
    if name is not None and name not in known:
        _ls_part(name)
        return
    groups = [name] if name else [*registry.groups(), "recipes"]
    for group in groups:
        if group == "recipes":
            rows = shipped()
        else:
            rows = {name: registry.summary(group, name) for name in registry.table(group)}
        indent = "  " if len(groups) > 1 else ""
        if indent:
            print(f"{group}:")
        width = max(map(len, rows), default=0)
        for title, names in _titled(group, rows):
            if title:
                print(f"{indent}{title}:")
            for name in names:
                print(f"{indent}{'  ' if title else ''}{name:{width}}  {rows[name]}")


def _ls_part(name: str) -> None:
    """Print the page of one part, of each group that has one of this name."""
    from mmllm.recipe.part_page import groups_of, page

    if ":" in name:
        _importing(name)
    groups = groups_of(name)
    if not groups:
        near = registry.nearest(name, _names())
        hint = f'; did you mean "{near}"?' if near else "; `mmllm ls` lists all names."
        kinds = ", ".join([*registry.groups(), "recipes"])
        raise MmllmError(f'"{name}" is neither a group ({kinds}) nor a part{hint}')
    print("\n\n".join(page(group, name) for group in groups))


def _names() -> list[str]:
    """Groups and the parts of all of them."""
    parts = [name for group in registry.groups() for name in registry.table(group)]
    return [*registry.groups(), "recipes", *dict.fromkeys(parts)]


def _titled(group: str, names: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Names under the heading of their kind: connectors of the tables by where they work, all else without heading."""
    if group != "connectors":
        return [("", list(names))]
    kinds = connectors.KINDS.items()
    known = [(title, [name for name in names if name in table]) for title, table in kinds]
    others = [name for name in names if name not in connectors.TABLE]
    return [(title, found) for title, found in [*known, ("of other packages", others)] if found]


def _check(arguments: argparse.Namespace) -> int:
    path = find_recipe(arguments.recipe)
    if arguments.syntax:
        from mmllm.recipe.load import load_recipe

        print(f"{path}: its words are right ({_stages(load_recipe(path, arguments.overrides).stages)})")
        return 0
    from mmllm.checks.run import check_recipe

    recipe, report = check_recipe(path, arguments.overrides, _importer(path, arguments.trust_code))
    for sentence in report.errors:
        print(f"mmllm: {sentence}", file=sys.stderr)
    for sentence in report.warnings:
        print(f"mmllm: warning: {sentence}", file=sys.stderr)
    if report.errors:
        counted = f"{len(report.errors)} {'error' if len(report.errors) == 1 else 'errors'}"
        print(f"mmllm: {path}: {counted}; relative paths start beside the recipe or in {Path.cwd()}.", file=sys.stderr)
        return 2
    untested = f", {len(report.warnings)} not tested" if report.warnings else ""
    print(f"{path}: ok ({_stages(recipe.stages)}{untested})")
    for note in report.notes:
        print(f"  {note}")
    print(f"next: {shlex.join(['mmllm', 'train', str(arguments.recipe), *arguments.overrides])}")
    return 0


def _importer(path: Path, trusted: bool) -> Callable[[str], None]:
    """What is called before a class of another package is imported: a run from elsewhere has to be trusted first."""
    from mmllm.recipe.located import is_run

    def importing(where: str) -> None:
        if path.name == "recipe.yaml" and is_run(path.parent):
            from mmllm.checkpoints.code_trust import check_code

            check_code(path.parent, trusted)
        _importing(where)

    return importing


def _importing(where: str) -> None:
    """Say which class of another package runs its module's code now."""
    print(f"mmllm: importing {where}, a class of another package.", file=sys.stderr)


def _stages(names: Iterable[str]) -> str:
    found = list(names)
    return f"{len(found)} {'stage' if len(found) == 1 else 'stages'}: {', '.join(found)}"


def _show(arguments: argparse.Namespace) -> None:
    from mmllm.recipe.load import dump, load_recipe
    from mmllm.recipe.schema import json_schema

    if arguments.schema:
        print(json.dumps(json_schema(), indent=2))
        return
    if arguments.recipe is None:
        raise MmllmError("show needs a recipe, a run folder or --schema.")
    print(dump(load_recipe(find_recipe(arguments.recipe), arguments.overrides)), end="")


def _inspect(arguments: argparse.Namespace) -> None:
    from mmllm.inspection.command import run

    path = find_recipe(arguments.recipe)
    run(path, arguments.overrides, arguments.data, arguments.rows, arguments.row, arguments.html)


def _cp(arguments: argparse.Namespace) -> None:
    path = copy_recipe(arguments.name, arguments.destination)
    print(path)
    _place_parts(path)


def _place_parts(path: Path, overrides: Sequence[str] = ()) -> None:
    """Copy the miniature parts a recipe names below the current folder where it has none, and say so."""
    from mmllm.recipe.load import load_recipe
    from mmllm.recipe.shipped_parts import place_parts

    sentence = place_parts(load_recipe(path, overrides))
    if sentence:
        print(f"mmllm: {sentence}.", file=sys.stderr)


def _train(arguments: argparse.Namespace) -> int:
    from mmllm.training.launch import launch

    path = find_recipe(arguments.recipe)
    _place_parts(path, arguments.overrides)
    _show_places(path)
    code = launch(
        path,
        arguments.overrides,
        gpus=arguments.gpus,
        nodes=arguments.nodes,
        out=arguments.out,
        accept=arguments.accept is not None,
        verify=arguments.verify,
    )
    if code == 0:
        _next_of_run(path, arguments.overrides, arguments.out)
    return code


def _next_of_run(path: Path, overrides: Sequence[str], out: Path | None) -> None:
    """Print how to go on with a run that is trained."""
    from mmllm.recipe.load import load_recipe

    recipe = load_recipe(path, overrides)
    word = "eval" if recipe.eval.benchmarks else "chat"
    print(f"next: {shlex.join(['mmllm', word, str(out or Path('runs') / recipe.name)])}")


def _show_places(path: Path) -> None:
    """Say which paths of a recipe are not meant from the current folder, since they were found elsewhere."""
    from mmllm.recipe.load import paths_beside

    for sentence in paths_beside(path):
        print(f"mmllm: {sentence}", file=sys.stderr)


def _eval(arguments: argparse.Namespace) -> None:
    from mmllm.evaluation.run import evaluate

    benchmarks = None
    if arguments.benchmarks:
        benchmarks = _chosen(find_recipe(arguments.folder), arguments.benchmarks)
    _show_places(find_recipe(arguments.folder))
    evaluate(
        arguments.folder,
        benchmarks=benchmarks,
        limit=arguments.limit,
        blind=arguments.blind,
        out=arguments.out,
        overrides=arguments.overrides,
        trust=_trust(arguments),
    )


def _chosen(path: Path, entries: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Benchmarks asked for, with the arguments given here or else by the run's recipe; checked as a recipe's are."""
    from mmllm.recipe import yaml_lines
    from mmllm.recipe.load import load_recipe

    known = load_recipe(path).eval.benchmarks
    chosen: dict[str, Any] = {}
    for entry in entries:
        name, given, text = entry.partition("=")
        document = yaml_lines.read(text)
        if document.problems:
            raise MmllmError(f"--benchmarks {entry}: {document.problems[0][-1]}.")
        chosen[name] = document.data if given else known.get(name, {})
    # as an override, so that they are checked like a recipe's own
    return load_recipe(path, [f"eval.benchmarks={json.dumps(chosen)}"]).eval.benchmarks


def _chat(arguments: argparse.Namespace) -> None:
    _serving("terminal").chat(arguments.folder, arguments.overrides, _trust(arguments))


def _serve(arguments: argparse.Namespace) -> None:
    app = _serving("app")
    app.serve(arguments.folder, arguments.host, arguments.port, arguments.overrides, _trust(arguments))


def _serving(module: str) -> Any:
    """A module of mmllm.serving; MmllmError where a package of the extra `serve` is missing."""
    try:
        return importlib.import_module(f"mmllm.serving.{module}")
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "starlette", "uvicorn"):
            raise
        raise MmllmError(f'this needs {error.name}; install it with: pip install "mmllm[serve]".') from error


def _demo(arguments: argparse.Namespace) -> None:
    from mmllm.miniature.demo import run

    run()
