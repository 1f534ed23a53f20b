"""Frame selector and spatial interactor, which ``iva`` puts before a block of the LLM."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.deep_fusion.iva.turns import padded_table


class FrameSelector(nn.Module):
    """Scores r_t = <W_q u, W_k f_t> / √d, the k highest, and their softmax over all frames renormalised among the k.

    ``score`` best: f_t is the frame's best patch; mean: the mean of its patches. No biases: they would cancel out.
    """

    def __init__(self, hidden: int, dim: int, width: int, score: Literal["best", "mean"]) -> None:
        super().__init__()
        self.score, self.width = score, width
        self.query = nn.Linear(hidden, width, bias=False)
        self.key = nn.Linear(dim, width, bias=False)

    def forward(self, u: Tensor, patches: Tensor, real: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Choose frames int64[G, k] into N * F, with weights float[G, k], for questions float[G, hidden].

        Candidates are the frames of ``patches`` float[N, F, P, D] with ``real`` bool[N, F, P] ones, in the clips that
        ``candidates`` bool[G, N] opens. Where there are fewer than k, the rest repeats the best with weight 0.
        """
        lowest = torch.finfo(patches.dtype).min
        if self.score == "mean":
            counts = real.sum(dim=-1, keepdim=True).clamp(min=1)
            means = (patches * real[..., None]).sum(dim=-2) / counts
            scores = torch.einsum("gw,nfw->gnf", self.query(u), self.key(means))
        else:
            found = torch.einsum("gw,nfpw->gnfp", self.query(u), self.key(patches))
            scores = found.masked_fill(~real, lowest).amax(dim=-1)
        allowed = (candidates[:, :, None] & real.any(dim=-1)).flatten(1)
        scores = (scores.flatten(1) / self.width**0.5).masked_fill(~allowed, lowest)
        best, frames = scores.topk(min(k, scores.shape[1]), dim=1)
        chosen = allowed.gather(1, frames)
        weights = best.softmax(dim=1).masked_fill(~chosen, 0.0)
        return torch.where(chosen, frames, frames[:, :1]), weights


class SpatialInteractor(nn.Module):
    """Update tanh(gamma) W_o sum_t w_t CrossAttn(Q = W_h LN(h), K = V = W_v f_t), each over one frame's patches."""

    def __init__(self, hidden: int, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(hidden)
        self.query = nn.Linear(hidden, heads * head_dim, bias=False)
        self.value = nn.Linear(dim, heads * head_dim, bias=False)
        self.output = nn.Linear(heads * head_dim, hidden, bias=False)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, h: Tensor, of: Tensor, frames: Tensor, weights: Tensor, patches: Tensor, real: Tensor) -> Tensor:
        """Read for states float[M, hidden] of the groups ``of`` int64[M]: what is added to them.

        A group reads the ``frames`` int64[G, k] of ``patches`` float[N, F, P, D], weighted by float[G, k].
        """
        query = self.query(self.norm(h.to(patches.dtype)))
        value = self.value(patches.flatten(0, 1)[frames])  # G, k, P, width
        read = self._read(query, of, value, weights, real.flatten(0, 1)[frames])
        return torch.tanh(self.gate) * self.output(read)

    def _read(self, query: Tensor, of: Tensor, value: Tensor, weights: Tensor, real: Tensor) -> Tensor:
        """Reading of each state in its group's frames: float[M, width]."""
        if not len(of):
            return query + (value.sum() + weights.sum()) * 0.0  # every weight takes part on every rank
        n_groups, k = weights.shape
        order, place, most = padded_table(of, n_groups)
        group = of[order]
        table = query.new_zeros(n_groups, most, query.shape[1]).index_put((group, place), query[order])
        heads = table.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # G, heads, most, d
        asked = heads[:, None].expand(-1, k, -1, -1, -1).flatten(0, 1)
        shown = value.unflatten(-1, (self.heads, -1)).transpose(2, 3).flatten(0, 1)  # G * k, heads, P, d
        seen = real.flatten(0, 1)[:, None, None]
        found = functional.scaled_dot_product_attention(asked, shown, shown, attn_mask=seen)
        summed = (found.unflatten(0, (n_groups, k)) * weights[:, :, None, None, None]).sum(dim=1)
        rows = summed.transpose(1, 2).flatten(2)[group, place]
        return torch.zeros_like(query).index_put((order,), rows)


class IvaLayer(nn.Module):
    """Selector and interactor before one block."""

    def __init__(
        self, hidden: int, dim: int, heads: int, head_dim: int, width: int, score: Literal["best", "mean"]
    ) -> None:
        super().__init__()
        self.selector = FrameSelector(hidden, dim, width, score)
        self.interactor = SpatialInteractor(hidden, dim, heads, head_dim)
