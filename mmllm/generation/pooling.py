"""One vector for a conversation or a text: the LLM's final hidden states, pooled; made between the engine's steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from mmllm.batches.collate import collate

if TYPE_CHECKING:
    from mmllm.batches.sample import Encoded
    from mmllm.generation.generator import Generator

Pooling = Literal["last", "mean"]
"""Which states make the vector: that of the last position, or the mean of all, places of media included."""


@torch.inference_mode()
def pooled(generator: Generator, encoded: Encoded, pooling: Pooling) -> torch.Tensor:
    """Return float32[D_hidden] of length 1, on the CPU; safe to call from any thread."""
    model = generator.model
    batch = collate([encoded], model.inputs, model.llm.positions)
    with generator.engine.between_steps():
        _, hidden = model.hidden(batch.to(model.llm.device))
    states = hidden[: len(encoded.ids)].float().cpu()
    vector = states[-1] if pooling == "last" else states.mean(dim=0)
    return torch.nn.functional.normalize(vector, dim=0)
