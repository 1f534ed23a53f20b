"""Layers of Tem-Adapter's released code, for ``temporal_aligner`` with ``form: released``."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.layers.basics import feed_forward
from mmllm.connectors.layers.temporal import Attention


class PostNormBlock(nn.Module):
    """Block x = LN(x + Attn(x, x)); where it ``reads`` x = LN(x + Attn(x, z)); x = LN(x + W2 ReLU(W1 x)); with biases.

    As the first transformer's (Vaswani et al. 2017, arXiv 1706.03762).
    """

    def __init__(self, width: int, heads: int, mlp_width: int, reads: bool = False) -> None:
        super().__init__()
        self.attention = Attention(width, heads, bias=True, output_bias=True)
        self.norm = nn.LayerNorm(width)
        self.reading = Attention(width, heads, bias=True, output_bias=True) if reads else None
        self.reading_norm = nn.LayerNorm(width) if reads else None
        self.wide, self.back = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        self.last_norm = nn.LayerNorm(width)
        start(self.modules())

    def forward(self, x: Tensor, seen: Tensor, z: Tensor | None = None, seen_z: Tensor | None = None) -> Tensor:
        """Update x float[N, Q, W]; ``seen`` of x and ``seen_z`` of ``z`` float[N, K, W] as ``Attention`` has it."""
        x = self.norm(x + self.attention(x, x, seen))
        if self.reading is not None and self.reading_norm is not None:
            assert z is not None and seen_z is not None
            x = self.reading_norm(x + self.reading(x, z, seen_z))
        return self.last_norm(x + self.back(functional.relu(self.wide(x))))


class SentenceAligner(nn.Module):
    """Refinement a' = a + gamma * Dec(a; v) of one vector for all words, gamma float[W] = 1e-4 at the start.

    Dec: LN and a linear map to ``inner`` channels (for frames with another LN behind it), one decoder block x += O V LN
    x, x += Attn(LN x, frames), x += FF(x), then LN and a linear map back. The first is what self-attention comes to
    with one vector; its queries and keys, which would never learn, are left out.
    """

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.text = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner))
        self.frames = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.LayerNorm(inner))
        self.own = nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, inner, bias=False), nn.Linear(inner, inner))
        self.reading_norm, self.reading = nn.LayerNorm(inner), Attention(inner, heads, output_bias=True)
        self.feed = feed_forward(inner, bias=True)
        self.output = nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, width))
        self.gate = nn.Parameter(torch.full((width,), 1e-4))
        start(self.modules(), std=0.02)

    def forward(self, a: Tensor, words: Tensor, real: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        """Refine a float[N, W] by frames float[N, F, W]: a' float[N, Q, W], for Q sets ``seen`` bool[N or 1, Q, F]."""
        n, n_sets = len(v), seen.shape[1]
        frames = self.frames(v).repeat_interleave(n_sets, dim=0)
        x = self.text(a)[:, None].repeat_interleave(n_sets, dim=0)
        x = x + self.own(x)
        x = x + self.reading(self.reading_norm(x), frames, seen.expand(n, -1, -1).flatten(0, 1)[:, None])
        x = x + self.feed(x)
        return a[:, None] + self.gate * self.output(x[:, 0]).unflatten(0, (n, n_sets))


def start(modules: Iterable[nn.Module], std: float | None = None) -> None:
    """Start linear layers as the authors do: Xavier's uniform numbers, or normal ones of ``std``; biases 0."""
    for module in modules:
        if isinstance(module, nn.Linear):
            if std is None:
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
