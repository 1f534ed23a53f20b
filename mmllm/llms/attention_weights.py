"""Attention weights of a few positions of a packed row, for looking at: kernels that answer requests keep none.

``attention.py`` hands over the queries and keys of every layer while such a pass runs; all else in it is as usual.
"""

from __future__ import annotations

import torch

from mmllm.llms.scoring import Scoring, repeated, seen_from


class AttentionWeights:
    """Mean over layers and heads of where chosen positions of a row of one conversation look, causally."""

    def __init__(self, positions: torch.Tensor) -> None:
        """``positions`` int64[M] in the row."""
        self.positions = positions
        self.n_layers = 0
        self._sum: torch.Tensor | None = None

    def take(self, query: torch.Tensor, key: torch.Tensor, scoring: Scoring) -> None:
        """Add a layer's: ``query`` float[1, heads, S, d], ``key`` float[1, kv_heads, S, d]."""
        query = query[:, :, self.positions].float()
        key, _ = repeated(query, key.float(), key)
        scores = query @ key.transpose(2, 3) * scoring.scale
        if scoring.softcap is not None:
            scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
        seen = seen_from(self.positions, key.shape[2], scoring.window)
        weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)[0].mean(dim=0)
        self._sum = weights if self._sum is None else self._sum + weights
        self.n_layers += 1

    @property
    def mean(self) -> torch.Tensor:
        """float32[M, S], each row sums to 1; ValueError where no layer attended."""
        if self._sum is None:
            raise ValueError("no layer attended in this pass")
        return self._sum / self.n_layers
