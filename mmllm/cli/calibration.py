"""The command that calibrates the decisions of a run: calibrate."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmllm.cli.arguments import Parsers, change_arguments, code_argument, command, run_path, trust


def add(commands: Parsers) -> None:
    """Add the command."""
    parser = command(commands, "calibrate", _calibrate, "fit the probabilities of decisions to questions with answers")
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument("questions", metavar="FILE", help="rows of question, answer, media, options or levels")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="eval, serve, llm.context, paths of parts")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of the half that it is measured on")
    change_arguments(parser)
    code_argument(parser)


def _calibrate(arguments: argparse.Namespace) -> None:
    from mmllm.calibration.calibrate import calibrate

    run, words = run_path(arguments), arguments.overrides
    calibrate(run, arguments.questions, seed=arguments.seed, overrides=words, trust=trust(arguments))
