"""Rows of new tokens beside the frozen LLM's tables: they learn alone, and old tokens keep embeddings and logits.

``CausalLM.add_tokens`` makes them from ``llm: {tokens: [...]}``; ``train: {llm.tokens: ...}`` lets them learn.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmllm.hooks.shards import is_split, whole
from mmllm.llms.head import shallow

NOISE = 0.02
"""Of a new row, as a share of the size of what it begins with: tokens of the same pieces must not stay the same."""


class NewRows(nn.Module):
    """Rows float32[n, D] of new tokens in one table, and their biases where the head has some."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Rows and biases in ``dtype``: copies, which stay whole where ZeRO-3 takes the weights themselves apart."""
        weight, bias = (None if one is None else one.to(dtype, copy=True) for one in (self.weight, self.bias))
        assert weight is not None
        return weight, bias


class NewTokens(nn.Module):
    """Tokens ``first`` to ``first + n - 1`` of an LLM whose tables end before or behind them.

    One table serves embeddings and head where the LLM ties them, else each has its own. A new row begins as the mean of
    the rows of the pieces that its text was before (Gee et al. 2022, arXiv 2402.09977), so that its logit is no larger
    than theirs, with a little noise.
    """

    def __init__(
        self, model: PreTrainedModel, first: int, pieces: Sequence[Sequence[int]], seeds: Sequence[int]
    ) -> None:
        """Make rows for the LLM ``model``.

        Args:
            model: the frozen LLM.
            first: id of the first new token.
            pieces: of each new token the ids of its text without it.
            seeds: of each new token's noise.
        """
        super().__init__()
        self.first, self.n = first, len(pieces)
        embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
        self.tied = head.weight is embeddings.weight
        self.embed = NewRows(_begun(embeddings.weight, pieces, seeds))
        bias = None if head.bias is None else _mean(head.bias, pieces)
        if self.tied and bias is None:
            self.head = self.embed
        else:
            # a tied table with biases that are the head's own is not known in any family
            self.head = NewRows(_begun(head.weight, pieces, [seed + 1 for seed in seeds]), bias)

    def embedded(self, ids: Tensor, embeddings: nn.Module) -> Tensor:
        """float[..., D]: embeddings of ``ids`` int64[...], new ones included, with all that the LLM does to them."""
        own = (ids >= self.first) & (ids < self.first + self.n)
        old = embeddings(ids.masked_fill(own, 0))
        rows, _ = self.embed(embeddings.weight.dtype)
        # the LLM's own class with other rows: Gemma multiplies what it looks up
        table = shallow(embeddings)
        table.__dict__["_parameters"] = {**embeddings._parameters, "weight": rows}
        table.__dict__["padding_idx"] = None  # its row would get no gradient
        table.__dict__.pop("forward", None)  # one put in on the instance would run with the old rows
        new = table((ids - self.first).clamp(0, self.n - 1))
        return torch.where(own.unsqueeze(-1), new.to(old.dtype), old)

    def headed(self, head: nn.Module) -> nn.Module:
        """A stand-in for the LLM's head that gives logits of new tokens too, float[..., V]; old ones are the head's."""
        own = shallow(head)
        # not a submodule of anything, as all of the copy of the model that it goes into
        own.__dict__["forward"] = lambda states: self._logits(states, head(states))
        return own

    def _logits(self, states: Tensor, old: Tensor) -> Tensor:
        rows, bias = self.head(states.dtype)
        new = F.linear(states, rows, bias).to(old.dtype)
        # behind the last id of the tokenizer a table may have more rows, which stand for nothing
        return torch.cat([old[..., : self.first], new, old[..., self.first + self.n :]], dim=-1)

    @property
    def learning_head(self) -> tuple[nn.Parameter, ...]:
        """What of the head learns."""
        return tuple(parameter for parameter in self.head.parameters() if parameter.requires_grad)

    @property
    def split(self) -> bool:
        """Whether ZeRO-3 has taken the rows apart."""
        return any(is_split(parameter) for parameter in self.parameters())


def seeds_of(texts: Sequence[str], seed: int) -> list[int]:
    """Seed of each token's noise: it does not depend on which other tokens there are."""
    return [(seed + zlib.crc32(f"llm.tokens {text}".encode())) % 2**62 for text in texts]


def _begun(table: Tensor, pieces: Sequence[Sequence[int]], seeds: Sequence[int]) -> Tensor:
    """float32[n, D]: means of the rows of ``pieces``, with noise."""
    means = _mean(table, pieces)
    size = means.square().mean(dim=-1, keepdim=True).sqrt()
    noise = [_drawn(means.shape[-1], seed) for seed in seeds]
    return means + NOISE * size * torch.stack(noise).to(means.device)


def _drawn(width: int, seed: int) -> Tensor:
    # on the CPU whatever torch's default device is: a plan has none for its numbers
    return torch.randn(width, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")


@torch.no_grad()
def _mean(table: Tensor, pieces: Sequence[Sequence[int]]) -> Tensor:
    """Means over the first axis of ``table``, float32."""
    with whole([table]):
        return torch.stack(
            [table.detach()[torch.tensor(ids, device=table.device)].float().mean(dim=0) for ids in pieces]
        )
