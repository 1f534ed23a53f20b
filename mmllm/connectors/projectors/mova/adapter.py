"""What the ``mova`` projector is made of: blocks in which a base encoder's tokens read those of chosen experts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class RotaryAttention(nn.Module):
    """Attention over maps on one grid, with rotary positions of rows and columns; its output starts at zero.

    LayerNorm on what it attends to (sub-LN, Wang et al. 2022, arXiv 2210.06423), no biases on queries, keys and values.
    """

    def __init__(self, width: int, read: int, heads: int) -> None:
        """``width`` of the queries, ``read`` of what they read."""
        super().__init__()
        self.heads = heads
        self.to_query = nn.Linear(width, width, bias=False)
        self.to_key, self.to_value = (nn.Linear(read, width, bias=False) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, width)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, read: Tensor, angles: Tensor) -> Tensor:
        """Tokens float[M, T, width] read float[M, T, read]; ``angles`` float[T, width / heads / 2]."""
        query, key, value = (
            linear(one).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear, one in ((self.to_query, x), (self.to_key, read), (self.to_value, read))
        )
        found = functional.scaled_dot_product_attention(turned(query, angles), turned(key, angles), value)
        return self.output(self.norm(found.transpose(1, 2).flatten(2)))


class SwiGlu(nn.Module):
    """W3 LN(silu(W1 x) * W2 x) (Shazeer 2020, arXiv 2002.05202), 8 / 3 times wider inside; W3 starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width * 8 // 3
        self.gate, self.value, self.output = nn.Linear(width, inner), nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm = nn.LayerNorm(inner)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> Tensor:
        """float[..., width] -> the same."""
        return self.output(self.norm(functional.silu(self.gate(x)) * self.value(x)))


class ExpertBlock(nn.Module):
    """x += sum of P_j Attn_j(LN x, LN F_j) over the chosen experts j; x += Attn(LN x); x += SwiGLU(LN x).

    P is a softmax over an item's chosen experts of MLP([text; mean of x]), nearly even at first. The others have
    exactly 0 of it, and where none is chosen nothing is added.
    """

    def __init__(self, width: int, reads: Sequence[int], text: int, heads: int) -> None:
        """``reads``: width of each expert; ``text``: of the question's vector."""
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(text + width, width), nn.GELU(), nn.Linear(width, len(reads)))
        # zero in the paper; beside an attention that starts at zero its first layer would get no gradient for two steps
        nn.init.normal_(self.gate[-1].weight, std=1e-3)  # type: ignore[arg-type]
        nn.init.zeros_(self.gate[-1].bias)  # type: ignore[arg-type]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in reads)
        self.norms_experts = nn.ModuleList(nn.LayerNorm(read) for read in reads)
        self.cross = nn.ModuleList(RotaryAttention(width, read, heads) for read in reads)
        self.norm_self, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = RotaryAttention(width, width, heads)
        self.feed = SwiGlu(width)

    def weights(self, x: Tensor, text: Tensor, chosen: Tensor) -> Tensor:
        """P float32[M, experts] of tokens float[M, T, width], text float[M, text] and ``chosen`` bool[M, experts]."""
        logits = self.gate(torch.cat([text, x.mean(dim=1)], dim=-1)).float()
        # the product: where no expert is chosen, the softmax has nothing to leave out
        return logits.masked_fill(~chosen, torch.finfo(logits.dtype).min).softmax(dim=-1) * chosen

    def forward(self, x: Tensor, experts: Sequence[Tensor], text: Tensor, chosen: Tensor, angles: Tensor) -> Tensor:
        """Tokens float[M, T, width] and maps float[M, T, read] of each expert -> float[M, T, width]."""
        weights = self.weights(x, text, chosen).to(x.dtype)
        added = torch.zeros_like(x)
        parts = zip(self.norms, self.norms_experts, self.cross, strict=True)
        for number, (norm, norm_expert, cross) in enumerate(parts):
            # in training every rank runs every expert: else one would wait for a gradient that another has not
            if self.training or bool(chosen[:, number].any()):
                found = cross(norm(x), norm_expert(experts[number]), angles)
                added = added + weights[:, number, None, None] * found
        x = x + added
        normed = self.norm_self(x)
        x = x + self.attention(normed, normed, angles)
        return x + self.feed(self.norm_feed(x))


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Pairs (2 i, 2 i + 1) of float[..., T, d] turned by ``angles`` float32[T, d / 2]."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


def plane_angles(rows: int, cols: int, width: int, device: torch.device) -> Tensor:
    """Rotary angles float32[rows * cols, width / 2] of a head: the first half of its pairs is of the row.

    Of a coordinate u: u 10000^(-2 i / (width / 2)), i from 0.
    """
    quarter = width // 4
    omega = 10000.0 ** -(torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
    row, col = (torch.arange(n, device=device)[:, None] * omega for n in (rows, cols))
    both = torch.cat([row[:, None].expand(-1, cols, -1), col.expand(rows, -1, -1)], dim=-1)
    return both.flatten(0, 1)
