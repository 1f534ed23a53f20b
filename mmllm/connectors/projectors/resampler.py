"""The ``resampler`` connector: learned latents read the features by cross attention; a fixed number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.base import Projector
from mmllm.connectors.layers.basics import feed_forward
from mmllm.connectors.layers.temporal import frames_in
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid


class ResamplerConnector(Projector):
    """The perceiver resampler of Flamingo (Alayrac et al. 2022, arXiv 2204.14198), then a linear map to the LLM.

    ``latents`` learned vectors from N(0, 1); each of ``depth`` blocks does z += Attn(LN z, [LN x; LN z]), z += FF(z);
    a final LN. Where something is comes solely from the features, no positions are added, but with ``frames`` a learned
    vector from N(0, 1) for each frame of a clip, up to so many; a picture is one. ``width`` of the latents is the
    features' own unless given (then a linear map comes first); ``heads`` of ``head_dim`` each.
    """

    takes_class_tokens = True

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        latents: int = 64,
        depth: int = 6,
        heads: int = 8,
        head_dim: int = 64,
        width: int | None = None,
        frames: int = 0,
    ) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        for name, value in {"latents": latents, "depth": depth, "heads": heads, "head_dim": head_dim}.items():
            if value < 1:
                raise MmllmError(f"connector resampler {name}: {value} must be at least 1.")
        if frames < 0:
            raise MmllmError(f"connector resampler frames: {frames} must be at least 0.")
        inner = dim if width is None else width
        self.input = nn.Identity() if width is None else nn.Linear(dim, inner)
        self.n_latents = latents  # under ZeRO-3 a weight has no shape outside of a forward
        self.latents = nn.Parameter(torch.randn(latents, inner))
        self.attention = nn.ModuleList(LatentAttention(inner, heads, head_dim) for _ in range(depth))
        self.feed = nn.ModuleList(feed_forward(inner) for _ in range(depth))
        self.norm = nn.LayerNorm(inner)
        self.output = nn.Linear(inner, llm_dim)
        self.n_frames = frames
        self.frames = nn.Parameter(torch.randn(frames, inner)) if frames else None

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """One row of latents, whatever the grid: they are in no order of space or time.

        Raises:
            MmllmError: more frames than there are vectors for.
        """
        if self.n_frames and frames_in(grid, "resampler") > self.n_frames:
            raise MmllmError(
                f"connector resampler has vectors for {self.n_frames} frames, but an item has {grid[0]}; raise frames, "
                "or lower the encoder's."
            )
        return (1, self.n_latents)

    def forward(self, features: Features, added: Tensor | None = None) -> Tensor:
        """Read features float[N, T, dim]: float[N, latents, llm_dim]; tokens that the mask excludes are not read.

        ``added``: float[N, width], what is added to all that is read of an item.
        """
        x = self.input(features.concatenated())
        if self.frames is not None:
            x = x + self.frames.to(x.dtype)[self._frame_of_tokens(features)]
        if added is not None:
            x = x + added.to(x.dtype)[:, None]
        z = self.latents.to(x.dtype).expand(x.shape[0], -1, -1)
        for attention, feed in zip(self.attention, self.feed, strict=True):
            z = z + attention(z, x, features.mask)
            z = z + feed(z)
        return self.output(self.norm(z))

    def _frame_of_tokens(self, features: Features) -> Tensor:
        """Frame of each token, int64[N, T]; in padding the last that there is a vector for."""
        tokens = torch.arange(features.mask.shape[1], device=features.mask.device)
        grids = features.item_grids()
        for grid in set(grids):
            self.out_grid(grid)
        sizes = tokens.new_tensor([prod(grid) // frames_in(grid, "resampler") for grid in grids])
        return (tokens // sizes[:, None]).clamp(max=self.n_frames - 1)


class LatentAttention(nn.Module):
    """Attention Attn(LN z, [LN x; LN z]): latents read features and each other; no biases."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_features = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.query = nn.Linear(width, heads * head_dim, bias=False)
        self.key_value = nn.Linear(width, 2 * heads * head_dim, bias=False)
        self.output = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, z: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Latents float[N, L, W], features float[N, T, W], mask bool[N, T] -> float[N, L, W] to be added to z."""
        z, x = self.norm_latents(z), self.norm_features(x)
        key, value = self.key_value(torch.cat([x, z], dim=1)).chunk(2, dim=-1)
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.query(z), key, value))
        seen = torch.cat([mask, mask.new_ones(z.shape[:2])], dim=1)[:, None, None]
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.output(out.transpose(1, 2).flatten(2))
