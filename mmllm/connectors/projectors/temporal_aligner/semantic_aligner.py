"""Words about a clip, refined by the clip itself: they steer the prediction of ``temporal_aligner``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmllm.connectors.layers.temporal import Block, in_time
from mmllm.errors import MmllmError
from mmllm.hooks import ForwardContext


@dataclass(frozen=True)
class Words:
    """Question and answer of each clip's conversation."""

    states: Tensor
    """float[N, L, llm_dim], padded with zeros behind; L is at least 1."""
    real: Tensor
    """bool[N, L]."""


def words_of(ctx: ForwardContext, key: str, n_items: int, dtype: torch.dtype) -> Words:
    """Text of the user and the assistant in the own conversation of each of ``n_items`` clips of ``key``, in ``dtype``.

    The embeddings it holds give no gradient: the words steer a prediction, they are not to learn from it.

    Raises:
        MmllmError: the batch does not say where the user's messages are.
    """
    if ctx.user_turn is None:
        raise MmllmError("connector temporal_aligner needs batches that say where the user's messages are.")
    assert ctx.text_embeds is not None
    text = ctx.text_embeds.detach().to(dtype)
    owners = ctx.item_sequence[key]
    # a blank item stands in for clips that a rank lacks: it is in no conversation
    owners = torch.cat([owners, owners.new_full((n_items - len(owners),), -1)])
    said = (ctx.user_turn[0] >= 0) | ctx.loss_mask[0]
    mine = said & (ctx.sequence_ids[0] == owners[:, None])
    counts = mine.sum(dim=1)
    longest = max(1, int(counts.max()))
    order = (~mine).long().argsort(dim=1, stable=True)[:, :longest]  # positions of its words first, in their order
    real = torch.arange(order.shape[1], device=text.device) < counts[:, None]
    return Words(text[order] * real[..., None], real)


class TextVector(nn.Module):
    """Mean a of the words, each brought to the width of the frames."""

    def __init__(self, llm_dim: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(llm_dim)
        self.input = nn.Linear(llm_dim, width)

    def forward(self, states: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Average words float[N, L, llm_dim], bool[N, L]: (a float[N, W], the words float[N, L, W])."""
        words = self.input(self.norm(states))
        return averaged(words, real), words


class SemanticAligner(nn.Module):
    """Refinement a' = a + gamma * Dec(words; v), gamma float[W] = 1e-4 at the start.

    Dec: LN and a linear map to ``inner`` channels, one decoder block (the words read each other, then the frames), the
    mean of the words, a linear map back. The vector for frame t reads frames up to t only: what it steers is to predict
    the frames after it.
    """

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.word_norm, self.word_input = nn.LayerNorm(width), nn.Linear(width, inner)
        self.frame_norm, self.frame_input = nn.LayerNorm(width), nn.Linear(width, inner)
        self.block = Block(inner, heads, reads=True)
        self.output = nn.Linear(inner, width)
        self.gate = nn.Parameter(torch.full((width,), 1e-4))

    def forward(self, a: Tensor, words: Tensor, real: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        """Refine a float[N, W] by words float[N, L, W], bool[N, L], and frames float[N, F, W]: a' float[N, Q, W].

        One a' for each of the Q sets of frames that ``seen`` bool[N or 1, Q, F] opens.
        """
        n, n_sets = len(v), seen.shape[1]
        x = self.word_input(self.word_norm(words))
        x = x + in_time(x.shape[1], x.shape[2], x)
        frames = self.frame_input(self.frame_norm(v))
        # every word once for each set; each text beside its own clip, not beside its neighbour's
        x, frames, real = (t.repeat_interleave(n_sets, dim=0) for t in (x, frames, real))
        open_frames = seen.expand(n, -1, -1).flatten(0, 1)[:, None]
        read = self.block(x, reachable(real)[:, None], frames, open_frames)
        return a[:, None] + self.gate * self.output(averaged(read, real)).unflatten(0, (n, n_sets))


def averaged(states: Tensor, real: Tensor) -> Tensor:
    """Mean of float[N, L, W] over what is ``real`` bool[N, L]; 0 where nothing is."""
    return (states * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)


def reachable(real: Tensor) -> Tensor:
    """Open the first entry of the mask bool[N, L] always, so that attention without any word is a number."""
    first = torch.arange(real.shape[1], device=real.device) == 0
    return real | first
