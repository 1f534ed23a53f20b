"""Where an answer's tokens look: attention of the passes that chose them, over every position before.

Made between the engine's steps in one pass over question and answer; ``serving`` lays it over pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from mmllm.batches.collate import collate
from mmllm.types import IGNORE_INDEX

if TYPE_CHECKING:
    from mmllm.batches.sample import Encoded
    from mmllm.generation.generator import Generator


@torch.inference_mode()
def attention_of(generator: Generator, encoded: Encoded, answer: Sequence[int], chosen: range) -> torch.Tensor:
    """Return float32[positions of the question] on the CPU; safe to call from any thread.

    Mean over layers, heads and the ``chosen`` tokens of ``answer``, each seen from the position whose output it was:
    the one before it. What lies on the answer itself is left out, so the sum is at most 1. A layer with a sliding
    window counts as any other, with nothing beyond its window.
    """
    model, start = generator.model, len(encoded.ids)
    longer = replace(
        encoded,
        ids=[*encoded.ids, *answer],
        labels=[*encoded.labels, *[IGNORE_INDEX] * len(answer)],
        # -1: no token of the user's
        user_turn=[*encoded.user_turn, *[-1] * len(answer)] if encoded.user_turn else [],
    )
    batch = collate([longer], model.inputs, model.llm.positions).to(model.llm.device)
    positions = torch.arange(start + chosen.start - 1, start + chosen.stop - 1, device=model.llm.device)
    with generator.engine.between_steps():
        ctx, embeds = model.embed(batch)
        weights = model.llm.attended(embeds, ctx, positions)
    return weights[:, :start].mean(dim=0).cpu()


def tokens_of(generator: Generator, answer: Sequence[int], start: int, end: int) -> range:
    """Return which tokens of an answer write its letters from ``start`` to before ``end``; empty: none does."""
    tokenizer = generator.llm.tokenizer
    ends = [len(tokenizer.decode(answer[: count + 1], skip_special_tokens=True)) for count in range(len(answer))]
    first = next((number for number, letters in enumerate(ends) if letters > start), len(answer))
    last = next((number for number, letters in enumerate(ends) if letters >= end), len(answer) - 1)
    return range(first, last + 1)
