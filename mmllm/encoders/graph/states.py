"""Node states from a frozen text model: made in the forward of ``text_graph``, or once for a whole folder.

``python -m mmllm.encoders.graph.states FOLDER --model M`` writes ``states-<digest>.safetensors`` beside the texts; the
digest is of model, settings and texts, so what was made for others is never read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmllm.encoders.graph.text_graph import TextGraphEncoder
from mmllm.encoders.graph.text_model import TextModel
from mmllm.errors import MmllmError
from mmllm.processors.graph import states_file
from mmllm.processors.graph_files import graph_of_folder
from mmllm.types import Layer


@torch.inference_mode()
def write_states(
    folder: Path, model: TextModel, layers: Sequence[Layer], texts: Sequence[str], batch: int = 64
) -> Path:
    """Make the states float[nodes, D * layers] of all texts of a folder, ``batch`` at once; the file."""
    file = states_file(folder, model.digest, layers, texts)
    order = sorted(range(len(texts)), key=lambda node: len(texts[node]))  # alike lengths together: little padding
    device = next(model.parameters()).device
    states: Tensor | None = None
    for start in range(0, len(order), batch):
        nodes = order[start : start + batch]
        ids = model.texts.tokens([texts[node] for node in nodes], str(folder)).to(device)
        made = torch.cat(model(ids, layers), dim=-1).float().cpu()
        states = torch.empty(len(texts), made.shape[1]) if states is None else states
        states[torch.tensor(nodes)] = made
    if states is None:
        raise MmllmError(f"{folder} has no texts, so there are no states to make.")
    # in one step: a reader sees all states or none
    new = file.with_suffix(".new")
    save_file({"states": states}, new)
    new.replace(file)
    return file


def _layer(word: str) -> Layer:
    """A number of a layer or the word final; ValueError for anything else, which argparse reports."""
    return "final" if word == "final" else int(word)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the states of one folder; a clear error is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m mmllm.encoders.graph.states", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True, help="folder or hub id, as in the recipe")
    parser.add_argument("--pool", default="last", choices=("last", "mean"))
    parser.add_argument("--layers", type=_layer, nargs="+", default=[-1], help="numbers of layers, or final")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--cut", action="store_true", help="keep the first tokens of longer texts")
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args(argv)
    pool: Literal["last", "mean"] = args.pool
    try:
        encoder = TextGraphEncoder(
            model=args.model, pool=pool, layers=args.layers, max_tokens=args.max_tokens, cut=args.cut
        )
        texts = graph_of_folder(args.folder).texts or []
        assert encoder.text is not None
        encoder.text.to("cuda" if torch.cuda.is_available() else "cpu")
        print(write_states(args.folder, encoder.text, encoder.resolve(encoder.n_blocks), texts, args.batch))
    except MmllmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
