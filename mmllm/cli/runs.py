"""Commands that train or use a run: train, eval, chat, serve, demo; and keys, for who may use one."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmllm.cli.arguments import (
    Parsers,
    change_arguments,
    command,
    recipe_argument,
    recipe_path,
    run_argument,
    run_path,
    runs_and_overrides,
    trust,
)
from mmllm.cli.placing import place, show_places
from mmllm.errors import MmllmError
from mmllm.recipe.files import find_recipe


def add(commands: Parsers) -> None:
    """Add the commands that train or use a run."""
    train = command(commands, "train", _train, "train all stages of a recipe; resumes where it stopped")
    recipe_argument(train)
    train.add_argument("--gpus", type=int, default=1, help="ranks per node (default: 1, in this process)")
    train.add_argument("--nodes", type=Path, help="DeepSpeed hostfile")
    train.add_argument("--out", type=Path, help="run folder (default: the run that RECIPE is, or runs/<name>)")
    change_arguments(train)
    cache = command(commands, "cache", _cache, "compute the features of a recipe's frozen encoders ahead of training")
    recipe_argument(cache)
    cache.add_argument("--stage", action="append", default=[], metavar="NAME", help="default: those that say `cache`")
    cache.add_argument("--verify", action="store_true", help="hash media anew even where no file has changed")
    evaluate = command(commands, "eval", _eval, "score a run on benchmarks")
    evaluate.add_argument(
        "--benchmarks",
        nargs="+",
        metavar="NAME",
        help="instead of the recipe's: NAME, NAME={path: FOLDER}, or a YAML file of them",
    )
    evaluate.add_argument("--limit", type=int, help="only the first N questions of each")
    evaluate.add_argument("--sample", type=int, metavar="SEED", help="draw the questions of --limit at random")
    evaluate.add_argument("--blind", action="store_true", help="also score the text-only baseline: without the media")
    evaluate.add_argument("--out", type=Path, help="folder for results and predictions (default: the run)")
    compare = command(commands, "compare", _compare, "compare two runs on the questions that both were asked")
    for name in ("first", "second"):
        compare.add_argument(name, type=Path, metavar=name.upper(), help="run folder, or what `eval --out` wrote")
    compare.add_argument("--benchmarks", nargs="+", metavar="NAME", help="default: all that both were scored on")
    compare.add_argument("--html", type=Path, metavar="FILE", help="also write a page, with the questions that flipped")
    report = command(commands, "report", _report, "write a page about a run: parts, curves, scores, answers")
    run_argument(report)
    report.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/report.html")
    chat = command(commands, "chat", _chat, "talk to a run in the terminal")
    serve = command(commands, "serve", _serve, "serve a run, or several, over an OpenAI-shaped HTTP API")
    for parser in (evaluate, chat):
        run_argument(parser)
    run_argument(serve, several=True)
    serve.add_argument("--sets", type=Path, metavar="DIR", help="run folders, each a model that is loaded when asked")
    serve.add_argument("--host", help="default: the recipe's")
    serve.add_argument("--port", type=int, help="default: the recipe's")
    serve.add_argument("--keys", type=Path, metavar="FILE", help="API keys that may use it (`mmllm keys add`)")
    serve.add_argument("--open", action="store_true", help="let others than this machine's users in without a key")
    serve.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="it may be asked as NAME too")
    serve.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL", help="scripts of this web page may call it (CORS)"
    )
    serve.add_argument("--tools", type=Path, metavar="FILE", help="tools that answers may ask for by <task:NAME> tags")
    keys = command(commands, "keys", _list_keys, "API keys of `mmllm serve --keys FILE`").add_subparsers(
        dest="what", required=True, metavar="add|list|remove"
    )
    add = command(keys, "add", _add_key, "make a key and print it, once")
    listed = command(keys, "list", _list_keys, "names of the keys, and what each may do")
    remove = command(keys, "remove", _remove_key, "take a key back; a running server needs no restart")
    for parser in (add, remove):
        parser.add_argument("name", metavar="NAME", help="of its user")
    for parser in (add, listed, remove):
        parser.add_argument("--keys", type=Path, required=True, metavar="FILE", help="where hashes of keys are kept")
    add.add_argument("--models", nargs="+", metavar="MODEL", help="that it may use (default: all)")
    add.add_argument("--groups", nargs="+", metavar="GROUP", help="it is of: it may use what learned from their data")
    add.add_argument("--at-once", type=int, metavar="N", help="requests that it may have open (default: any number)")
    add.add_argument("--per-minute", type=int, metavar="N", help="requests within a minute (default: any number)")
    add.add_argument("--metrics", action="store_true", help="it may read the server's numbers (GET /metrics)")
    gone = command(commands, "withdraw", _withdraw, "take every set that learned from a group's data out of service")
    gone.add_argument("group", metavar="GROUP")
    gone.add_argument("--sets", type=Path, required=True, metavar="DIR", help="folder of `mmllm serve --sets`")
    gone.add_argument("--reason", default="", metavar="TEXT", help="for the record")
    command(commands, "demo", _demo, "train, score and try the miniature model")


def _train(arguments: argparse.Namespace) -> int:
    from mmllm.training.launch import launch

    path = recipe_path(arguments)
    place(path, arguments.overrides)
    show_places(path)
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
    from mmllm.recipe.located import run_folder

    recipe = load_recipe(path, overrides)
    word = "eval" if recipe.eval.benchmarks else "chat"
    print(f"next: {shlex.join(['mmllm', word, str(run_folder(path, recipe.name, out))])}")


def _cache(arguments: argparse.Namespace) -> None:
    from mmllm.recipe.load import load_recipe
    from mmllm.training.cache_ahead import cache_ahead

    path = recipe_path(arguments)
    place(path, arguments.overrides)
    show_places(path)
    cache_ahead(load_recipe(path, arguments.overrides), arguments.stage, verify=arguments.verify)


def _eval(arguments: argparse.Namespace) -> None:
    from mmllm.evaluation.run import evaluate

    benchmarks = None
    folder = run_path(arguments)
    if arguments.benchmarks:
        benchmarks = _chosen(find_recipe(folder), arguments.benchmarks)
    show_places(find_recipe(folder))
    evaluate(
        folder,
        benchmarks=benchmarks,
        limit=arguments.limit,
        sample=arguments.sample,
        blind=arguments.blind,
        out=arguments.out,
        overrides=arguments.overrides,
        trust=trust(arguments),
    )
    if arguments.out is None and arguments.limit is None:
        print(f"next: {shlex.join(['mmllm', 'report', str(folder)])}")


def _chosen(path: Path, entries: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Benchmarks asked for, with the arguments given here or else by the run's recipe; checked as a recipe's are."""
    from mmllm.recipe import yaml_lines
    from mmllm.recipe.load import load_recipe

    known = load_recipe(path).eval.benchmarks
    chosen: dict[str, Any] = {}
    for entry in entries:
        if entry.endswith((".yaml", ".yml")):
            chosen |= _of_file(Path(entry))
            continue
        name, given, text = entry.partition("=")
        document = yaml_lines.read(text)
        if document.problems:
            raise MmllmError(f"--benchmarks {entry}: {document.problems[0][-1]}.")
        chosen[name] = document.data if given else known.get(name, {})
    # as an override, so that they are checked like a recipe's own
    return load_recipe(path, [f"eval.benchmarks={json.dumps(chosen)}"]).eval.benchmarks


def _compare(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from mmllm.evaluation.compare import compare, show

    runs = (arguments.first, arguments.second)
    found = compare(*runs, arguments.benchmarks)
    show(found, runs, Console())
    if arguments.html is not None:
        from mmllm.reporting.compared import compare_page

        print(compare_page(found, runs, arguments.html))


def _report(arguments: argparse.Namespace) -> None:
    from mmllm.reporting.page import report

    run = run_path(arguments)
    print(report(run, arguments.out or run / "report.html"))


def _of_file(path: Path) -> dict[str, Any]:
    """Benchmarks of a file: what stands under ``eval: benchmarks:``, or that part alone."""
    from mmllm.recipe import yaml_lines

    try:
        document = yaml_lines.read(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MmllmError(f"--benchmarks {path}: {error.strerror}; give a YAML file of benchmarks, or names.") from error
    if document.problems:
        raise MmllmError(f"--benchmarks {path}: {document.problems[0][-1]}.")
    found = document.data
    for section in ("eval", "benchmarks"):
        found = found.get(section, found) if isinstance(found, dict) else found
    if isinstance(found, list) and all(isinstance(name, str) for name in found):
        return {name: {} for name in found}
    if not isinstance(found, dict) or not found:
        raise MmllmError(f"--benchmarks {path}: it holds no benchmarks; write NAME: {{type: qa, path: FILE}}.")
    return {name: {} if arguments is None else arguments for name, arguments in found.items()}


def _chat(arguments: argparse.Namespace) -> None:
    _serving("terminal").chat(run_path(arguments), arguments.overrides, trust(arguments))


def _serve(arguments: argparse.Namespace) -> None:
    app, access = _serving("app"), _serving("access")
    runs, overrides = runs_and_overrides(arguments)
    who = access.Access(
        frozenset(access.host_name(host) for host in arguments.allow_host),
        tuple(arguments.allow_origin),
        None if arguments.keys is None else _serving("keys").KeyFile(arguments.keys),
        arguments.open,
    )
    more = (runs[1:], arguments.sets, arguments.tools)
    app.serve(runs[0], arguments.host, arguments.port, overrides, trust(arguments), who, *more)


def _add_key(arguments: argparse.Namespace) -> None:
    from mmllm.serving.keys import add_key

    words = (arguments.models, arguments.at_once, arguments.per_minute, arguments.metrics, arguments.groups)
    print(add_key(arguments.keys, arguments.name, *words))


def _list_keys(arguments: argparse.Namespace) -> None:
    from mmllm.serving.keys import describe, read_keys

    for name, key in read_keys(arguments.keys).items():
        print(describe(name, key))


def _remove_key(arguments: argparse.Namespace) -> None:
    from mmllm.serving.keys import remove_key

    remove_key(arguments.keys, arguments.name)


def _withdraw(arguments: argparse.Namespace) -> None:
    from mmllm.sets.offers import withdraw

    names = withdraw(arguments.sets, arguments.group, arguments.reason)
    print(f"withdrawn: {', '.join(names)}; servers of {arguments.sets} end their requests within a second")


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
