"""The `mmllm` command: each subcommand is a few lines that hand over to the module that does it.

Nothing heavy is imported before a subcommand needs it, so ls, check, show and cp answer without torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mmllm import __version__, registry
from mmllm.cli import calibration, certificates, extraction, published, recipes, runs
from mmllm.errors import MmllmError


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
    recipes.add(commands)
    runs.add(commands)
    extraction.add(commands)
    published.add(commands)
    certificates.add(commands)
    calibration.add(commands)
    return parser
