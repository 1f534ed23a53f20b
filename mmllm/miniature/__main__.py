"""`python -m mmllm.miniature build|gate|data|sense`: makes and measures the miniature parts, writes their data."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmllm.errors import MmllmError
from mmllm.recipe.shipped_parts import HOME, PARTS

SENSES = {
    "video": "mmllm.miniature.tasks.videos:write_video",
    "sound": "mmllm.miniature.tasks.sounds:write_sound",
    "graph": "mmllm.miniature.tasks.graphs:write_graph",
    "points": "mmllm.miniature.tasks.points:write_points",
    "document": "mmllm.miniature.tasks.documents:write_document",
    "together": "mmllm.miniature.tasks.together:write_together",
}
"""Modality -> what writes its miniature data: ``write(out, train, test, seed)``."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m mmllm.miniature", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="train the parts (goes on where it was stopped), then measure them")
    gate = commands.add_parser("gate", help="measure the parts and write the results table")
    for command in (build, gate):
        command.add_argument("part", nargs="?", choices=PARTS, help="one part; without it all")
        command.add_argument("--home", type=Path, default=HOME, help="folder of the parts")
    data = commands.add_parser("data", help="write the demo's pictures, training files and test files")
    data.add_argument("--out", type=Path, default=HOME / "world")
    data.add_argument("--train", type=int, default=6000, help="training pictures")
    data.add_argument("--test", type=int, default=300, help="questions of each miniature benchmark")
    data.add_argument("--seed", type=int, default=0)
    sense = commands.add_parser("sense", help="write the miniature data of another sense than sight of pictures")
    sense.add_argument("sense", choices=SENSES)
    sense.add_argument("--out", type=Path, help="default: data/mini/<sense>")
    sense.add_argument("--train", type=int, default=2000, help="training conversations")
    sense.add_argument("--test", type=int, default=300, help="questions of its miniature benchmark")
    sense.add_argument("--seed", type=int, default=0)
    return top


def build(part: str, home: Path) -> None:
    """Trains one part to the end of its plan; snapshots lie under home/build."""
    work, out = home / "build" / part, home / part
    if part == "lm":
        from mmllm.miniature.parts.lm import LmPlan, train_lm

        train_lm(LmPlan(), work, out)
    elif part == "clip":
        from mmllm.miniature.parts.clip import ClipPlan, train_clip

        train_clip(ClipPlan(), work, out)
    elif part == "audio":
        from mmllm.miniature.parts.audio import AudioPlan, train_audio

        train_audio(AudioPlan(), work, out)
    else:
        from mmllm.miniature.parts.vit import VitPlan, train_vit

        train_vit(VitPlan(), work, out)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; a clear error is one line and exit code 2."""
    args = parser().parse_args(argv)
    try:
        if args.command == "data":
            from mmllm.miniature.tasks.images import write_world

            write_world(args.out, args.train, args.test, args.seed)
            return 0
        if args.command == "sense":
            module, _, name = SENSES[args.sense].partition(":")
            write = getattr(importlib.import_module(module), name)
            write(args.out or HOME / args.sense, args.train, args.test, args.seed)
            return 0
        import torch

        torch.set_num_threads(1)  # the order of sums, and so every bit, depends on the number of threads
        from mmllm.miniature.parts.results import record

        for part in (args.part,) if args.part else PARTS:
            if args.command == "build":
                build(part, args.home)
            record(part, args.home, f"python -m mmllm.miniature {args.command} {part}")
    except MmllmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    raise SystemExit(main())
