"""Adapter and guided aggregation of a block, for ``any2point``: its own, and those of the released code."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.encoder_adapters.any2point.views import Views
from mmllm.connectors.layers.basics import activation_of
from mmllm.connectors.layers.batch_norm import RealBatchNorm


class Adapter(nn.Module):
    """``up(gelu(down(x)))``, zero at the start; ``released``: GELU's quick form, and random at the start."""

    def __init__(self, dim: int, width: int, released: bool = False) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width)
        self.up = nn.Linear(width, dim)
        self.activation = activation_of("quick_gelu" if released else "gelu")
        if released:
            for layer in (self.down, self.up):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.normal_(layer.bias, std=1e-6)
        else:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """float[..., D] -> float[..., D], in float32 where the weights are."""
        return self.up(self.activation(self.down(x.to(self.down.weight.dtype))))


class Guide(nn.Module):
    """Guided aggregation: attention and mean inside each view's groups, weighted by agreement with the voxels'."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.to_heads = nn.Linear(dim, 3 * width)
        self.out = nn.Linear(width, dim)

    def forward(self, x: Tensor, views: Views, norm: nn.Module, n_real: int) -> Tensor:
        """float[N, T, D] -> sum over views of w_m u_m, float[N, T, D]; no item sees another."""
        query, key, value = self.to_heads(x.to(self.out.weight.dtype))[:, None].chunk(3, dim=-1)
        seen = torch.cat([views.together, views.near], dim=1)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        # every token sees itself, so no row is -inf alone
        inner = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1) @ value
        mean = seen.to(inner.dtype) / seen.sum(dim=-1, keepdim=True)
        outcome = functional.gelu(norm(self.out(mean @ inner)))
        flat, solid = outcome[:, :-1], outcome[:, -1:]
        # the margin: views that all point the other way still have weights that add up
        agree = (1 + functional.cosine_similarity(flat, solid, dim=-1)) / 2 + 1e-6
        weights = agree / agree.sum(dim=1, keepdim=True)
        return (weights[..., None] * flat).sum(dim=1)


class ReleasedGuide(nn.Module):
    """Guided aggregation of the released code; the attention of a view is shared by all blocks, its norms are not.

    Per view m: y = x + Attn_m(LN_m x) within the view's groups; u_m = GELU(BN(mean of y over the token's group)), where
    groups without a token count as zeros in BN's statistics. Over voxels: s = GELU(BN(maximum + mean of x)). Then the
    sum of w_m u_m, w_m = (1 + cos(u_m, s)) / 2 over their sum.
    """

    def __init__(self, dim: int, width: int, heads: int, views: int) -> None:
        super().__init__()
        self.views = nn.ModuleList(ViewAttention(dim, width, heads) for _ in range(views))

    def forward(self, x: Tensor, views: Views, norms: nn.Module, n_real: int) -> Tensor:
        """float[N, T, D] -> float[N, T, D]; items from ``n_real`` on are blank ones."""
        assert isinstance(norms, BlockNorms)
        x = x.to(norms.solid.weight.dtype)
        solid = self._solid(x, views, norms, n_real)
        flat = []
        for m, (attention, norm) in enumerate(zip(self.views, norms.flat, strict=True)):
            y = x + attention(x, views.together[:, m])
            flat.append(functional.gelu(norm(*self._cells(y, views, m, n_real))).gather(1, self._index(views, m, x)))
        found = torch.stack(flat, dim=1)
        agree = (1 + functional.cosine_similarity(found, solid[:, None], dim=-1)) / 2
        weights = agree / agree.sum(dim=1, keepdim=True).clamp_min(1e-12)  # 0 where all views point the other way
        return (weights[..., None] * found).sum(dim=1)

    @staticmethod
    def _index(views: Views, m: int, x: Tensor) -> Tensor:
        """Group of each token as an index along the second axis, int64[N, T, D]."""
        return views.groups[:, m, :, None].expand(-1, -1, x.shape[-1])

    def _cells(self, y: Tensor, views: Views, m: int, n_real: int) -> tuple[Tensor, Tensor]:
        """Means over groups float[N, groups, D], zero where empty, and which are of real items bool[N, groups]."""
        index = self._index(views, m, y)
        sums = y.new_zeros(len(y), views.n_groups, y.shape[-1]).scatter_add(1, index, y)
        counts = y.new_zeros(len(y), views.n_groups).scatter_add(1, index[..., 0], torch.ones_like(y[..., 0]))
        real = torch.arange(len(y), device=y.device)[:, None].expand(counts.shape) < n_real
        return sums / counts.clamp(min=1)[..., None], real

    def _solid(self, x: Tensor, views: Views, norms: BlockNorms, n_real: int) -> Tensor:
        """GELU(BN(maximum + mean over the token's voxel)), float[N, T, D]."""
        n, _, dim = x.shape
        items = torch.arange(n, device=x.device)[:, None, None].expand(*views.voxels.shape[:2], 1)
        places = torch.cat([items, views.voxels], dim=-1).flatten(0, 1)
        found, inverse = places.unique(dim=0, return_inverse=True)
        rows, index = x.flatten(0, 1), inverse[:, None].expand(-1, dim)
        empty = x.new_zeros(len(found), dim)
        most = empty.scatter_reduce(0, index, rows, "amax", include_self=False)
        mean = empty.scatter_reduce(0, index, rows, "mean", include_self=False)
        return functional.gelu(norms.solid(most + mean, found[:, 0] < n_real))[inverse].view_as(x)


class BlockNorms(nn.Module):
    """Batch norms of a block: one for each view, one for voxels."""

    def __init__(self, dim: int, views: int) -> None:
        super().__init__()
        self.flat = nn.ModuleList(RealBatchNorm(dim) for _ in range(views))
        self.solid = RealBatchNorm(dim)


class ViewAttention(nn.Module):
    """Attn(LN x) inside groups, ``heads`` heads of ``width`` channels in all; scores over the root of ``width``."""

    def __init__(self, dim: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, width**-0.5
        self.norm = nn.LayerNorm(dim)
        self.to_heads = nn.Linear(dim, 3 * width, bias=False)
        self.out = nn.Linear(width, dim)
        for layer in (self.to_heads, self.out):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, together: Tensor) -> Tensor:
        """float[N, T, D], bool[N, T, T] -> what is added, float[N, T, D]."""
        query, key, value = self.to_heads(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = functional.scaled_dot_product_attention(query, key, value, together[:, None], scale=self.scale)
        return self.out(read.transpose(1, 2).flatten(2))
