"""Point clouds through a frozen transformer that never saw any: its blocks and positions serve learned point tokens."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor

from mmllm.encoders.base import Encoder
from mmllm.encoders.hook_points import BlockHooks
from mmllm.encoders.points.backbone import load_backbone
from mmllm.encoders.points.sampling import farthest_first, filled_up, on_unit_sphere
from mmllm.errors import MediaError, MmllmError
from mmllm.hooks import EncoderContext, Handle, TokenLayout
from mmllm.processors.points import MAX_BYTES, MAX_POINTS, read_points
from mmllm.types import Features

FIXED_POINT = 32767
"""Coordinates of -1..1 travel as int16: a loader's floats would be cast to an encoder's bfloat16, 8 bits of them."""
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

    modality = "points"

    def __init__(
        self,
        *,
        model: str,
        backbone: str = "language",
        pretrained: str | None = None,
        points: int = 1024,
        tokens: int = 128,
        layers: Sequence[int] = (-1,),
        weights: str = "pretrained",
        seed: int = 0,
        max_points: int = MAX_POINTS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__(layers=layers)
        if not 0 < tokens <= points or points % tokens or (points // tokens) & (points // tokens - 1):
            raise MmllmError(f"points: {points} points must be 1, 2, 4, 8, ... times the {tokens} tokens.")
        if weights not in ("pretrained", "random"):
            raise MmllmError(f'points: weights "{weights}" is unknown; known: pretrained, random.')
        self.backbone = load_backbone(backbone, model, pretrained)
        if weights == "random":
            self.backbone.draw(seed)
        self.dim = self.backbone.dim
        self.points, self.tokens, self.seed = points, tokens, seed
        self.max_points, self.max_bytes = max_points, max_bytes
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

    def read(self, media: str | Path | bytes | np.ndarray | Tensor) -> dict[str, Tensor]:
        """One cloud -> ``{"points": int16[P, 3]}``, farthest first, 32767 = 1; raises ``MediaError``."""
        cloud = read_points(media, 4 * self.points, self.seed, self.max_points, self.max_bytes)
        if len(cloud) > 4 * self.points:
            generator = torch.Generator().manual_seed(self.seed)
            cloud = cloud[torch.randperm(len(cloud), generator=generator)[: 4 * self.points]]
        cloud = on_unit_sphere(filled_up(cloud, self.points))
        if not torch.isfinite(cloud).all():
            raise MediaError("the points are too far from each other to be brought to one scale")
        chosen = self._chosen(cloud)
        return {"points": (chosen * FIXED_POINT).round().to(torch.int16)}

    def _chosen(self, cloud: Tensor) -> Tensor:
        """float[P, 3], farthest first; of a cloud that has no more points only the first half needs to be in order."""
        if len(cloud) > self.points or self.points == self.tokens:
            return cloud[farthest_first(cloud, self.points)]
        first = farthest_first(cloud, self.points // 2)
        rest = torch.ones(len(cloud), dtype=torch.bool).index_fill(0, first, False)
        return torch.cat([cloud[first], cloud[rest]])

    def measure(self, media: Any) -> Mapping[str, Tensor]:
        """Nothing needs to be known: every cloud has as many tokens."""
        return {}

    def grid(self, inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
        """(tokens,)."""
        return (self.tokens,)

    def fixed_grid(self) -> tuple[int, ...]:
        """Every cloud has as many tokens."""
        return (self.tokens,)

    def dummy(self) -> dict[str, Tensor]:
        """All points at one place."""
        return {"points": torch.zeros(self.points, 3, dtype=torch.int16)}

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
        indices = self.resolve(self.n_blocks)
        layout = TokenLayout((1,) * n, (self.tokens,), self._prefix)
        with torch.set_grad_enabled(self.learns()), self.laid_out(layout) as ctx:
            tokens = self._plain(cloud) if self._embed is None else self._embed(ctx, cloud)
            states = self.backbone(tokens.to(weight.dtype), indices)
        prefix = torch.cat([state[:, : self._prefix] for state in states], dim=-1)
        layers = dict(zip(self.layers, (state[:, self._prefix :] for state in states), strict=True))
        mask = torch.ones(n, self.tokens, dtype=torch.bool, device=cloud.device)
        return Features(layers, mask, (self.tokens,), None, {"centres": cloud[:, : self.tokens], "prefix": prefix})

    def _plain(self, cloud: Tensor) -> Tensor:
        """Tokens that nothing learned: trigonometric features of centre and surroundings, float[N, T, D]."""
        centres = cloud[:, : self.tokens]
        distances = torch.cdist(centres, cloud, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distances.topk(min(16, self.points), largest=False).indices
        groups = torch.stack([one[index] for one, index in zip(cloud, nearest, strict=True)])
        around = (groups - centres[:, :, None]).abs().mean(dim=2)
        half = -(-self.dim // 2)
        return torch.cat([waves(centres, half), waves(around, half)], dim=-1)[..., : self.dim]

    @classmethod
    def tiny(cls) -> PointsEncoder:
        """A random CLIP's text tower: 3 blocks of width 16, 8 positions; 32 points, 8 tokens."""
        vision = {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 1}
        text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 3}
        config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
        with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            save_file(open_clip.CLIP(**config).state_dict(), Path(folder, "open_clip_model.safetensors"))
            Path(folder, "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
            return cls(model=folder, points=32, tokens=8)

    def tiny_media(self) -> list[Any]:
        """A cube's corners and edges, a line, a bent sheet."""
        steps = torch.linspace(-1, 1, 4)
        cube = torch.cartesian_prod(steps, steps, steps)
        line = torch.stack([torch.linspace(0, 1, 20), torch.zeros(20), torch.zeros(20)], dim=1)
        sheet = torch.cartesian_prod(torch.linspace(0, 3, 12), torch.linspace(0, 1, 5))
        return [cube, line, torch.cat([sheet, sheet[:, :1] ** 2], dim=1)]


def waves(x: Tensor, dim: int) -> Tensor:
    """Sines and cosines of each coordinate, float[..., 3] -> float[..., dim], wavelengths from 4 down to 1/4."""
    count = -(-dim // 6)
    rates = torch.pi / 2 * 16.0 ** torch.linspace(0, 1, count, device=x.device, dtype=x.dtype)
    angles = x[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1).transpose(-1, -2).flatten(-2)[..., :dim]
