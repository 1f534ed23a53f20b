"""A tiny assembly with two image encoders and LoRA, and packed rows for it, shared by tests of the model."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mmllm.connectors.base import Connector
from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.encoders.base import Encoder
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.model.model import MultimodalLM
from mmllm.types import IGNORE_INDEX, Batch
from tests.support.parts import tiny_llm


@dataclass(frozen=True)
class Row:
    """One conversation: ``text`` and ``places`` alternate; the last ``n_labels`` tokens carry labels."""

    seed: int
    pieces: tuple[int | str, ...]
    """A number: that many text tokens; a key: the places of one picture."""
    n_labels: int = 3
    name: str = field(default="")
    source: str = field(default="")


@cache
def tiny_encoder() -> HfVisionEncoder:
    """Read from its folder once; copy it before use."""
    return HfVisionEncoder.tiny()


def tiny_assembly(family: str = "llama", lora: bool = True, **words: float) -> MultimodalLM:
    """Encoders ``image`` and ``page`` (4 x 4 patches each), connectors to 4 and 16 tokens, LoRA with random ``b``."""
    llm = tiny_llm(family)
    encoders = {key: deepcopy(tiny_encoder()) for key in ("image", "page")}
    torch.manual_seed(7)
    connectors: dict[str, nn.Module] = {
        "image": PoolConnector(dim=encoders["image"].dim, llm_dim=llm.dim, grid=[2, 2]),
        "page": MlpConnector(dim=encoders["page"].dim, llm_dim=llm.dim),
    }
    if lora:
        connectors["lora"] = LoraConnector(llm_dim=llm.dim, rank=2, alpha=4, **words)  # type: ignore[arg-type]
    assembly = MultimodalLM(llm, encoders, connectors, {"image": "image", "page": "page"})  # type: ignore[arg-type]
    if lora:
        for layer in assembly.connectors["lora"].layers.values():  # type: ignore[union-attr]
            nn.init.normal_(layer.b.weight, std=0.1)
    return assembly.requires_grad_(False).eval()


def assembly_of(
    made: type[Connector], family: str = "llama", encoder: Encoder | None = None, shaken: bool = False, **words: Any
) -> MultimodalLM:
    """A tiny LLM that sees ``encoder``'s items (pictures if None) through this connector, as it starts or ``shaken``.

    Shaken, every weight is random, gates too.
    """
    llm, seen = tiny_llm(family), deepcopy(tiny_encoder()) if encoder is None else encoder
    torch.manual_seed(3)
    connector = made(dim=seen.dim * len(seen.layers), llm_dim=llm.dim, **words)
    key = seen.modality
    assembly = MultimodalLM(llm, {key: seen}, {key: connector}, {key: key}).requires_grad_(False).eval()
    with torch.no_grad():
        for parameter in connector.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) * shaken)
    return assembly


def batch_of(assembly: MultimodalLM, rows: Sequence[Row]) -> Batch:
    """The rows packed in order, with random pictures drawn from each row's seed.

    The first two pieces of text are the user's first message, each later one is a message of its own; labelled text is
    the assistant's.
    """
    lengths = {key: entry.n_tokens(None) for key, entry in assembly.inputs.items()}
    ids: list[torch.Tensor] = []
    filled: dict[str, list[int]] = {key: [] for key in lengths}
    starts: dict[str, list[int]] = {key: [] for key in lengths}
    owners: dict[str, list[int]] = {key: [] for key in lengths}
    media_ids: list[torch.Tensor] = []
    pixels: dict[str, list[torch.Tensor]] = {key: [] for key in lengths}
    labels, questions, sizes = [], [], []
    for number, row in enumerate(rows):
        generator = torch.Generator().manual_seed(row.seed)
        made, asked = [], []
        for piece in row.pieces:
            if isinstance(piece, int):
                n_before = sum(bool(len(numbers) and numbers[0] >= 0) for numbers in asked)
                asked.append(torch.full((piece,), max(0, n_before - 1)))
                made.append(torch.randint(3, 360, (piece,), generator=generator))
                media_ids.append(torch.full((piece,), -1))
                continue
            size = lengths[piece]
            assert size is not None
            start = sum(map(len, ids)) + sum(map(len, made))
            filled[piece] += range(start, start + size)
            starts[piece].append(start)
            owners[piece].append(number)
            media_ids.append(torch.full((size,), len(pixels[piece])))
            encoder = assembly.encoders[piece]
            shape = encoder.processor.blank()["pixels"].shape  # type: ignore[union-attr]
            pixels[piece].append(torch.randn(shape, generator=generator))
            made.append(torch.zeros(size, dtype=torch.int64))
            asked.append(torch.full((size,), -1))
        ids.append(torch.cat(made))
        sizes.append(len(ids[-1]))
        label = torch.full_like(ids[-1], IGNORE_INDEX)
        if row.n_labels:
            label[-row.n_labels :] = ids[-1][-row.n_labels :]
        labels.append(label)
        questions.append(torch.cat(asked).masked_fill(label != IGNORE_INDEX, -1))
    many = torch.tensor(sizes, dtype=torch.int64)
    empty = torch.zeros(0, dtype=torch.int64)
    return Batch(
        input_ids=torch.cat([*ids, empty]),
        labels=torch.cat([*labels, empty]),
        position_ids=torch.cat([*(torch.arange(n) for n in sizes), empty])[None],
        cu_seqlens=F.pad(many.cumsum(0), (1, 0)).to(torch.int32),
        sequence_ids=torch.repeat_interleave(torch.arange(len(sizes)), many),
        media_ids=torch.cat([*media_ids, empty]),
        media={key: {key: {"pixels": torch.stack(items)}} for key, items in pixels.items() if items},
        media_positions={key: torch.tensor(filled[key], dtype=torch.int64) for key, items in pixels.items() if items},
        item_starts={key: torch.tensor(starts[key]) for key, items in pixels.items() if items},
        item_sequence={key: torch.tensor(owners[key]) for key, items in pixels.items() if items},
        names=[row.name or f"row {row.seed}" for row in rows],
        dataset_names=[row.source for row in rows],
        user_turn=torch.cat([*questions, empty]),
    )


def shortened(batch: Batch, n: int) -> Batch:
    """The batch without the last ``n`` (text) tokens of each conversation."""
    lengths = batch.cu_seqlens.diff()
    kept = batch.position_ids[0] < (lengths - n)[batch.sequence_ids]
    new = kept.long().cumsum(0) - 1
    names = ("input_ids", "labels", "position_ids", "sequence_ids", "user_turn")
    row = {name: getattr(batch, name)[..., kept] for name in names}
    bounds = nn.functional.pad((lengths - n).cumsum(0), (1, 0)).to(torch.int32)
    moved = {name: {k: new[v] for k, v in getattr(batch, name).items()} for name in ("media_positions", "item_starts")}
    return replace(batch, **row, media_ids=batch.media_ids[kept], cu_seqlens=bounds, **moved)
