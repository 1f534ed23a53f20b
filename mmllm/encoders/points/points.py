"""Point clouds through a frozen transformer that never saw any: its blocks and positions serve learned point tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from mmllm.encoders.base import Encoder
from mmllm.encoders.hook_points import BlockHooks
from mmllm.encoders.points.backbone import load_backbone
from mmllm.errors import MmllmError
from mmllm.hooks import EncoderContext, Handle, TokenLayout
from mmllm.processors.point_files import MAX_BYTES, MAX_POINTS
from mmllm.processors.points import FIXED_POINT, PointsProcessor
from mmllm.types import Features

Embed = Callable[[EncoderContext, Tensor], Tensor]
"""(context, float32[N, P, 3]) -> float[N, prefix + T, D]."""


class PointsEncoder(Encoder):
    """``points`` points of an object become ``tokens`` tokens for the frozen blocks of a ``backbone`` (any modality).

    Reads OFF (points drawn uniformly on its faces with ``seed``), PLY, NPY, NPZ and rows of x y z, all brought to the
    unit sphere. ``points`` are chosen by farthest point sampling and stay in that order, so the first half of them
    is spread over the object, and half of those as well; the first ``tokens`` are the tokens' centres. A smaller cloud
    is filled up by repeating its points. Large clouds are thinned to four times ``points`` at random (``seed``) first.

    The tokens are made by the connector that works inside (``any2point``; ``receive``). Without one they are
    trigonometric features of each centre and of the mean of its nearest points (after Point-NN, Zhang et al. 2023,
    arXiv 2303.08134), which nothing learned. ``weights: random`` draws the blocks anew: a control, not for use.
    ``Features.extras``: ``centres`` float[N, T, 3], and ``prefix`` float[N, prefix, D * layers], the connector's own
    tokens in front.
    """

    processor: PointsProcessor
    gives_final = True

    def __init__(
        self,
        *,
        model: str,
        backbone: str = "language",
        pretrained: str | None = None,
        points: int = 1024,
        tokens: int = 128,
        layers: Sequence[int | Literal["final"]] = (-1,),
        weights: str = "pretrained",
        seed: int = 0,
        max_points: int = MAX_POINTS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__(layers=layers)
        # a power of two: any2point halves the points, stage after stage, until the tokens are left
        if not 0 < tokens <= points or points % tokens or (points // tokens) & (points // tokens - 1):
            raise MmllmError(f"points: {points} points must be 1, 2, 4, 8, ... times the {tokens} tokens.")
        if weights not in ("pretrained", "random"):
            raise MmllmError(f'points: weights "{weights}" is unknown; known: pretrained, random.')
        self.gives_final = "final" in layers
        self.backbone = load_backbone(backbone, model, pretrained, with_norm=self.gives_final)
        if weights == "random":
            self.backbone.draw(seed)
        self.dim = self.backbone.dim
        self.points, self.tokens = points, tokens
        self.processor = PointsProcessor(
            points=points, tokens=tokens, seed=seed, max_points=max_points, max_bytes=max_bytes
        )
        self._embed: Embed | None = None
        self._prefix = 0
        self.resolve(self.n_blocks)
        self.freeze()

    @property
    def n_blocks(self) -> int:
        """Transformer blocks of the backbone."""
        return len(self.backbone.blocks)

    @property
    def positions(self) -> Tensor:
        """The source's learned positions: float[L, D] on a line, float[rows, cols, D] on a plane."""
        return self.backbone.positions

    def receive(self, embed: Embed, prefix: int) -> Handle:
        """Let ``embed`` make the tokens that enter the first block, ``prefix`` of its own in front of the T.

        Raises:
            MmllmError: another connector makes them already.
        """
        if self._embed is not None:
            raise MmllmError("two connectors would make the tokens of one points encoder; keep one of them.")
        self._embed, self._prefix = embed, prefix

        def undo() -> None:
            self._embed, self._prefix = None, 0

        return Handle(undo)

    def hook_points(self) -> BlockHooks:
        """The blocks of the backbone."""
        return BlockHooks(self.backbone.blocks, self.dim, self.scope)

    def forward(self, **inputs: Tensor) -> Features:
        """``points`` int16[N, P, 3] -> layers of float[N, T, D], token i at the i-th of the farthest points."""
        weight = next(self.parameters())
        cloud = inputs["points"].to(weight.device).float() / FIXED_POINT
        n = len(cloud)
        wanted = self.resolve(self.n_blocks)
        layout = TokenLayout((1,) * n, (self.tokens,), self._prefix)
        with torch.set_grad_enabled(self.learns()), self.laid_out(layout) as ctx:
            tokens = self._plain(cloud) if self._embed is None else self._embed(ctx, cloud)
            states = self.backbone(tokens.to(weight.dtype), wanted)
        prefix = torch.cat([state[:, : self._prefix] for state in states], dim=-1)
        layers = dict(zip(self.layers, (state[:, self._prefix :] for state in states), strict=True))
        mask = torch.ones(n, self.tokens, dtype=torch.bool, device=cloud.device)
        return Features(layers, mask, (self.tokens,), None, {"centres": cloud[:, : self.tokens], "prefix": prefix})

    def _plain(self, cloud: Tensor) -> Tensor:
        """Tokens that nothing learned: trigonometric features of centre and surroundings, float[N, T, D]."""
        centres = cloud[:, : self.tokens]
        # exact: by matrix products a point would not be at distance 0 from itself
        distances = torch.cdist(centres, cloud, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distances.topk(min(16, self.points), largest=False).indices
        groups = torch.stack([one[index] for one, index in zip(cloud, nearest, strict=True)])
        around = (groups - centres[:, :, None]).abs().mean(dim=2)
        half = -(-self.dim // 2)
        return torch.cat([waves(centres, half), waves(around, half)], dim=-1)[..., : self.dim]


def waves(x: Tensor, dim: int) -> Tensor:
    """Sines and cosines of each coordinate, float[..., 3] -> float[..., dim], wavelengths from 4 down to 1/4."""
    count = -(-dim // 6)
    rates = torch.pi / 2 * 16.0 ** torch.linspace(0, 1, count, device=x.device, dtype=x.dtype)
    angles = x[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1).transpose(-1, -2).flatten(-2)[..., :dim]
