"""Clips of different lengths without any video: an encoder that takes tensors, and packed conversations about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.connectors.base import Connector
from mmllm.encoders.base import Encoder
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.types import Batch, Features, Message, Sample
from tests.support.parts import tiny_llm

PATCHES, DIM = 4, 16


class ClipEncoder(Encoder):
    """Media are tensors float[frames, PATCHES, DIM], and so are their features."""

    modality = "video"
    dim = DIM

    def read(self, media: Any) -> dict[str, Tensor]:
        """The tensor."""
        return {"patches": media}

    def grid(self, inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
        """(frames, 2, 2)."""
        return (len(inputs["patches"]), 2, 2)

    def collate(self, items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Padded with large numbers, which must not be read."""
        clips = [item["patches"] for item in items]
        lengths = torch.tensor([len(clip) for clip in clips])
        return {"patches": torch.nn.utils.rnn.pad_sequence(clips, True, padding_value=77.0), "lengths": lengths}

    def forward(self, **inputs: Tensor) -> Features:
        """What was read."""
        patches, lengths = inputs["patches"], inputs["lengths"]
        grids = tuple((length, 2, 2) for length in lengths.tolist())
        values = patches.flatten(1, 2)
        mask = torch.arange(values.shape[1]) < (lengths * PATCHES)[:, None]
        same = len(set(grids)) == 1
        return Features({-2: values}, mask, (patches.shape[1], 2, 2), None if same else grids)

    def dummy(self) -> dict[str, Tensor]:
        """One frame of zeros."""
        return {"patches": torch.zeros(1, PATCHES, DIM)}


def clip(n_frames: int, seed: int) -> Tensor:
    """A random one."""
    return torch.randn(n_frames, PATCHES, DIM, generator=torch.Generator().manual_seed(seed))


def talk(*messages: str, clips: Sequence[Tensor] = ()) -> Sample:
    """User and assistant in turns."""
    roles = ["user", "assistant"] * len(messages)
    said = tuple(Message(role, text) for role, text in zip(roles, messages, strict=False))
    return Sample("talk", said, {"video": tuple(clips)} if clips else {})


def assembly_of(connector: type[Connector], family: str = "llama", shaken: bool = True, **words: Any) -> MultimodalLM:
    """A tiny LLM that sees clips through this connector, every weight of it random (gates too), or as it starts."""
    llm = tiny_llm(family)
    torch.manual_seed(3)
    made = connector(dim=DIM, llm_dim=llm.dim, **words)
    assembly = MultimodalLM(llm, {"video": ClipEncoder(layers=(-2,))}, {"video": made}, {"video": "video"})
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) * shaken)
    return assembly.requires_grad_(False).eval()


def packed(assembly: MultimodalLM, samples: Sequence[Sample], train: bool = True) -> Batch:
    """The conversations in one row."""
    readers = assembly.readers()
    prompter = Prompter(assembly.llm.tokenizer, ["video"], assembly.reads_questions)
    return collate([encode(sample, prompter, readers, 4096, train) for sample in samples], readers)
