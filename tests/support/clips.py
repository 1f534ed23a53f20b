"""Clips of different lengths without any video: an encoder that takes tensors, and packed conversations about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmllm.connectors.base import Connector
from mmllm.encoders.base import Encoder
from mmllm.model.model import MultimodalLM
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.types import Features, Sample
from tests.support.assemblies import assembly_of
from tests.support.talks import talk

PATCHES, DIM = 4, 16


class ClipProcessor(Processor):
    """Media are tensors float[frames, PATCHES, DIM]."""

    modality = "video"

    def read(self, media: Tensor) -> Item:
        """The tensor."""
        return {"patches": media}

    def grid(self, info: ItemInfo) -> tuple[int, int, int]:
        """(frames, 2, 2)."""
        return len(info["patches"]), 2, 2

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """Padded with large numbers, which must not be read."""
        clips = [item["patches"] for item in items]
        lengths = torch.tensor([len(clip) for clip in clips])
        return {"patches": torch.nn.utils.rnn.pad_sequence(clips, True, padding_value=77.0), "lengths": lengths}

    def blank(self) -> Item:
        """One frame of zeros."""
        return {"patches": torch.zeros(1, PATCHES, DIM)}


class ClipEncoder(Encoder):
    """Gives tensors float[frames, PATCHES, DIM] as features, as they are."""

    dim = DIM

    def __init__(self) -> None:
        super().__init__(layers=(-2,))
        self.processor = ClipProcessor()

    def forward(self, **inputs: Tensor) -> Features:
        """What was read."""
        patches, lengths = inputs["patches"], inputs["lengths"]
        grids = tuple((length, 2, 2) for length in lengths.tolist())
        values = patches.flatten(1, 2)
        mask = torch.arange(values.shape[1]) < (lengths * PATCHES)[:, None]
        same = len(set(grids)) == 1
        return Features({-2: values}, mask, (patches.shape[1], 2, 2), None if same else grids)


def clip(n_frames: int, seed: int) -> Tensor:
    """A random one."""
    return torch.randn(n_frames, PATCHES, DIM, generator=torch.Generator().manual_seed(seed))


def clip_talk(*texts: str, clips: Sequence[Tensor] = ()) -> Sample:
    """User and assistant in turns, about these clips."""
    return talk("talk", *texts, **({"video": tuple(clips)} if clips else {}))


def clip_assembly(connector: type[Connector], family: str = "llama", shaken: bool = True, **words: Any) -> MultimodalLM:
    """A tiny LLM that sees clips through this connector, every weight of it random (gates too), or as it starts."""
    return assembly_of(connector, family, ClipEncoder(), shaken, **words)
