"""Commands between runs and published checkpoints: import, export, push."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from mmllm.cli.arguments import (
    Parsers,
    change_arguments,
    code_argument,
    command,
    run_argument,
    run_path,
    trust,
)


def add(commands: Parsers) -> None:
    """Add the commands for published checkpoints."""
    take = command(commands, "import", _import, "make a run of a published multimodal model, compared with its own")
    take.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, or name on the Hugging Face hub")
    take.add_argument("--out", type=Path, help="run folder (default: runs/<name of the checkpoint>)")
    take.add_argument("--copy", action="store_true", help="copy the folder into the run instead of referring to it")
    take.add_argument(
        "--no-tiles", action="store_true", help="take pictures whole, where the model would cut them into tiles"
    )
    give = command(commands, "export", _export, "write a run in a form that other software loads, compared with it")
    run_argument(give)
    give.add_argument(
        "--to", required=True, metavar="FORM", help="hf (transformers), llm, peft, gguf (llama.cpp), vllm, run"
    )
    give.add_argument("--out", type=Path, required=True, help="folder to write")
    give.add_argument("--dtype", help="gguf: float32 (default), float16 or bfloat16, as which matrices are stored")
    give.add_argument(
        "--allow",
        action="append",
        metavar="WHAT",
        help="gguf: what may differ in llama.cpp: pixels (resized), text (around them), class-token; no-clips",
    )
    give.add_argument("--certify", action="store_true", help="make a certificate of the run and put it beside")
    up = command(
        commands, "push", _push, "upload a run, or what was exported of it, to the Hugging Face hub with a card"
    )
    up.add_argument("folder", type=Path, metavar="RUN", help="run, or folder that mmllm export wrote")
    up.add_argument("repo", metavar="USER/NAME", help="name on the hub; made where it is not there")
    up.add_argument("--to", metavar="FORM", help="of a run: export it so first, as mmllm export has it (default: run)")
    up.add_argument("--private", action="store_true", help="make the repository private, where it is made")
    change_arguments(up)
    code_argument(up)


def _import(arguments: argparse.Namespace) -> None:
    from mmllm.published.importing import import_checkpoint

    out = arguments.out or Path("runs") / Path(arguments.checkpoint).name
    import_checkpoint(arguments.checkpoint, out, tiles=not arguments.no_tiles, copy=arguments.copy, say=print)
    print(f"imported: {out}")
    print(f"next: {shlex.join(['mmllm', 'chat', str(out)])}")


def _export(arguments: argparse.Namespace) -> None:
    from mmllm.exporting.export import export_run

    words = {word: given for word in ("dtype", "allow") if (given := getattr(arguments, word)) is not None}
    words |= {"certify": arguments.certify, "trust": trust(arguments)}
    export_run(run_path(arguments), arguments.to, arguments.out, say=print, **words)
    print(f"exported: {arguments.out}")


def _push(arguments: argparse.Namespace) -> None:
    from mmllm.exporting.push import push

    words = {"private": arguments.private, "trust": trust(arguments), "say": print}
    print(f"pushed: {push(run_path(arguments), arguments.repo, arguments.to, **words)}")
