"""Arguments that several commands share, and what they mean."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmllm import registry
from mmllm.errors import MmllmError
from mmllm.recipe.files import find_recipe
from mmllm.recipe.located import is_run, run_of

Parsers = Any
"""argparse's object that collects subcommands; it has no public name."""


def command(commands: Parsers, name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> Any:
    """One subcommand's parser."""
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def run_argument(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """RUN, overrides of what did not shape its weights, and how much is trusted; ``several``: more RUNs."""
    parser.add_argument("folder", type=Path, metavar="RUN")
    metavar = "RUN | path=value" if several else "path=value"
    text = f"{'more runs; ' if several else ''}eval, serve, llm.context, paths of parts"
    parser.add_argument("overrides", nargs="*", metavar=metavar, help=text)
    change_arguments(parser)
    code_argument(parser)


def change_arguments(parser: argparse.ArgumentParser) -> None:
    """What a changed run is met with."""
    parser.add_argument(
        "--accept", choices=["changed"], help="go on where tokenizer, template, preprocessing or data have changed"
    )
    parser.add_argument("--verify", action="store_true", help="hash frozen weights anew even where no file has changed")


def code_argument(parser: argparse.ArgumentParser) -> None:
    """Whether classes that a run from elsewhere names are imported."""
    parser.add_argument("--trust-code", action="store_true", help="import the user's own classes that a run names")


def trust(arguments: argparse.Namespace) -> Any:
    """What of a changed or foreign run is taken as it is."""
    from mmllm.checkpoints.load import Trust

    return Trust(arguments.accept is not None, arguments.verify, arguments.trust_code)


def recipe_argument(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """RECIPE and its overrides."""
    parser.add_argument("recipe", nargs="?" if optional else None, help="file, run folder or name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="e.g. stages.align.batch=64")
    code_argument(parser)


def recipe_path(arguments: argparse.Namespace) -> Path:
    """The file of RECIPE; MmllmError where it is a run from elsewhere that names code and is not trusted."""
    path = find_recipe(arguments.recipe)
    run = run_of(path)
    if run is not None:
        from mmllm.checkpoints.code_trust import check_code

        check_code(run, arguments.trust_code)
    return path


def runs_and_overrides(arguments: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """The folders of all RUNs, and the words between them that are overrides; errors as :func:`run_path` has them."""
    words: list[str] = arguments.overrides
    runs = [word for word in words if "=" not in word or Path(word).exists()]
    return [run_path(arguments), *map(run_folder, map(Path, runs))], [word for word in words if word not in runs]


def run_path(arguments: argparse.Namespace) -> Path:
    """The folder of RUN, which its recipe.yaml names as well; MmllmError where there is none."""
    return run_folder(arguments.folder)


def run_folder(given: Path) -> Path:
    """As :func:`run_path`, of a path."""
    if given.is_dir():
        return given
    if str(given) == "real":
        from mmllm.real.opening import real_run

        return real_run()
    if given.exists():
        run = run_of(given)
        if run is None:
            raise MmllmError(f"{given} is a file and no run's recipe.yaml; give the folder that mmllm train made.")
        return run
    beside = sorted(entry.name for entry in given.parent.iterdir() if is_run(entry)) if given.parent.is_dir() else []
    near = registry.nearest(given.name, beside)
    hint = f'did you mean "{given.parent / near}"?' if near else "give the folder that mmllm train made, runs/NAME."
    raise MmllmError(f"there is no run folder {given}; {hint}")
