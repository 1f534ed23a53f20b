"""Any2Point: point clouds through frozen blocks that learned words, pictures or sounds (arXiv 2404.07989).

Works inside a ``points`` encoder (its tokens, positions and adapters) and maps what leaves it into the LLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.base import EncoderAdapter, Projector
from mmllm.connectors.encoder_adapters.any2point.guide import Adapter, BlockNorms, Guide, ReleasedGuide
from mmllm.connectors.encoder_adapters.any2point.tokens import PointTokenizer
from mmllm.connectors.encoder_adapters.any2point.views import Views, rotations, views_of
from mmllm.connectors.layers.basics import mlp
from mmllm.errors import MmllmError
from mmllm.hooks import ChangeOutput, EncoderContext, Handle
from mmllm.hooks.points import AdaptableEncoder
from mmllm.types import Features, Grid


class PointCloudEncoder(AdaptableEncoder, Protocol):
    """Encoder of points, as far as it is needed here."""

    points: int
    tokens: int

    @property
    def positions(self) -> Tensor:
        """The source's learned positions, float[L, D] or float[rows, cols, D]."""
        ...

    def receive(self, embed: Callable[[EncoderContext, Tensor], Tensor], prefix: int) -> Handle:
        """Let ``embed`` make the tokens that enter the first block."""
        ...


class Any2PointConnector(Projector, EncoderAdapter):
    """Point clouds through a frozen encoder of another modality, after Any2Point (Tang et al. 2024, arXiv 2404.07989).

    In front of the blocks: a learned tokenizer (``width``, ``neighbours``) and a class token.

    Each block: the source's own positions at virtual projections of the centres (``views``) are added to its input
    (``positions: false``: not); ``scale * Adapter(f)`` (bottleneck ``adapter``, 0: none) to what its MLP gives; and
    ``guided * sum_m w_m u_m`` to its output, u_m being attention (width ``inner``, one for all blocks and views) and
    mean within groups of ``span`` positions of view m, w_m its agreement with the same over voxels (``cells`` along an
    axis, or ``voxel`` their edge, counted from each item's smallest coordinates as the authors do). ``guided: 0``
    leaves that out. The paper's coefficients for ``guided`` and 1-D, picture, sound: 0.3, 0.7, 0.5.

    ``form: released`` has the authors' adapter and guided aggregation, see ``guide.py``: an attention for each view,
    ``heads`` heads, a residual, norms in front and behind; voxels without attention, by maximum and mean. Their batch
    norms let items of a step influence each other while they learn. The default ``own`` has neither residual nor norm
    in front, one head and layer norms.

    The LLM gets one token from the class token beside the maximum over tokens, and one for each of the first
    ``patches`` centres, which are spread over the object. Unlike the authors' in both forms: layer norms for batch
    norms in the tokenizer, the source's norms stay frozen, the class token has no position, positions enter the first
    block once, and the three faults named in ``views.py``. It trains from random tokens, so it is not the identity at
    its start.
    """

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        width: int = 36,
        neighbours: int = 24,
        views: int = 6,
        positions: bool = True,
        adapter: int = 16,
        scale: float = 0.3,
        guided: float = 0.3,
        inner: int = 12,
        span: int = 8,
        cells: int = 4,
        patches: int = 0,
        form: Literal["own", "released"] = "own",
        heads: int = 6,
        voxel: float | None = None,
    ) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        if form not in ("own", "released"):
            raise MmllmError(f"any2point: form {form!r} is unknown; known: own, released.")
        if form == "released" and (heads < 1 or inner % heads):
            raise MmllmError(f"any2point: heads {heads} must divide inner {inner}.")
        if voxel is not None and not voxel > 0:
            raise MmllmError(f"any2point: voxel {voxel:g} must be above 0 (the object has a radius of 1).")
        if min(views, span, cells, inner) < 1 or min(adapter, patches) < 0:
            raise MmllmError(
                f"any2point: views {views}, span {span}, cells {cells} and inner {inner} must be at least 1, adapter "
                f"{adapter} and patches {patches} at least 0."
            )
        self.width, self.neighbours, self.patches = width, neighbours, patches
        self.positions, self.adapter, self.scale = positions, adapter, scale
        self.guided, self.inner, self.span, self.cells = guided, inner, span, cells
        self.released, self.heads, self.voxel = form == "released", heads, voxel
        self._place: str | None = None
        self.turns: Tensor
        # not persistent: it follows from `views`, so a checkpoint need not hold it
        self.register_buffer("turns", rotations(views), persistent=False)
        self.tokenizer: PointTokenizer | None = None
        self.first: nn.Embedding | None = None
        self.adapters = nn.ModuleList()
        self.together: Guide | ReleasedGuide | None = None
        self.norms = nn.ModuleList()
        self.head_norm = nn.LayerNorm(2 * dim)
        self.head = mlp(2 * dim, llm_dim, 2)
        self.patch_norm = nn.LayerNorm(dim) if patches else None
        self.patch_head = mlp(dim, llm_dim, 2) if patches else None

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """(1, 1 + ``patches``); MmllmError where the encoder gives fewer tokens than ``patches``."""
        if self.patches > grid[0]:
            raise MmllmError(f"any2point: patches {self.patches} is more than the {grid[0]} tokens of the encoder.")
        return 1, 1 + self.patches

    def attach(self, encoder: AdaptableEncoder, key: str) -> Handle:
        """Make the weights for one ``points`` encoder and take hold of its blocks.

        Raises:
            MmllmError: another kind of encoder, or several.
        """
        if encoder.modality != "points" or self._place not in (None, key):
            places = key if self._place is None else f"{self._place}, {key}"
            raise MmllmError(f"any2point works inside one encoder of points, not in {places}.")
        clouds, points = cast(PointCloudEncoder, encoder), encoder.hook_points()
        if self._place is None:
            self._make(clouds, points.dim, points.n_blocks)
        self._place = key
        handles = [clouds.receive(lambda ctx, cloud: self._embed(ctx, cloud, clouds.positions), 1)]
        for block in range(points.n_blocks):
            if self.positions:
                handles.append(points.before_block(block, self._placed))
            if self.adapter:
                handles.append(points.after_mlp(block, self._adapted(block)))
            if self.guided:
                handles.append(points.after_block(block, self._guided(block)))
        return Handle.of(handles)

    def _make(self, encoder: PointCloudEncoder, dim: int, n_blocks: int) -> None:
        """The weights, once the encoder's width and numbers are known."""
        # its binary logarithm: the encoder takes powers of two only
        stages = (encoder.points // encoder.tokens).bit_length() - 1
        self.tokenizer = PointTokenizer(dim, self.width, stages, self.neighbours)
        # a layer, not a bare parameter: ZeRO-3 gathers weights where their module is called
        self.first = nn.Embedding(1, dim)
        nn.init.normal_(self.first.weight, std=0.02)
        views = len(self.turns)
        if self.guided and self.released:
            self.together = ReleasedGuide(dim, self.inner, self.heads, views)
        elif self.guided:
            self.together = Guide(dim, self.inner)
        for _ in range(n_blocks):
            if self.adapter:
                self.adapters.append(Adapter(dim, self.adapter, self.released))
            if self.guided:
                self.norms.append(BlockNorms(dim, views) if self.released else nn.LayerNorm(dim))

    def forward(self, features: Features) -> Tensor:
        """float[N, T, dim] and the class token in ``extras["prefix"]`` -> float[N, 1 + patches, llm_dim]."""
        tokens = features.concatenated()
        first = features.extras["prefix"][:, 0].to(tokens.dtype)
        self.out_grid(features.grid)
        said = [self.head(self.head_norm(torch.cat([tokens.amax(dim=1), first], dim=-1)))[:, None]]
        if self.patch_head is not None and self.patch_norm is not None:
            said.append(self.patch_head(self.patch_norm(tokens[:, : self.patches])))
        return torch.cat(said, dim=1)

    def _embed(self, ctx: EncoderContext, points: Tensor, table: Tensor) -> Tensor:
        """float[N, P, 3] -> class token and tokens float[N, 1 + T, D]; notes where they lie for the blocks."""
        assert self.tokenizer is not None and self.first is not None
        tokens = self.tokenizer(points)
        centres = points[:, : tokens.shape[1]]
        views = views_of(centres, table.to(points), self.turns.to(points), self.span, self.cells, self.voxel)
        ctx.notes[self.key, "views"] = views
        first = self.first(torch.zeros(len(points), 1, dtype=torch.int64, device=points.device))
        return torch.cat([first, tokens], dim=1)

    def _views(self, ctx: EncoderContext) -> Views:
        views = ctx.notes[self.key, "views"]
        assert isinstance(views, Views)
        return views

    def _placed(self, ctx: EncoderContext, x: Tensor) -> Tensor:
        """Positions added to the tokens behind the class token."""
        return x + functional.pad(self._views(ctx).positions, (0, 0, 1, 0)).to(x.dtype)

    def _adapted(self, block: int) -> ChangeOutput:
        def change(ctx: EncoderContext, _: Tensor, output: Tensor) -> Tensor:
            return output + (self.scale * self.adapters[block](output)).to(output.dtype)

        return change

    def _guided(self, block: int) -> ChangeOutput:
        def change(ctx: EncoderContext, _: Tensor, output: Tensor) -> Tensor:
            assert self.together is not None
            found = self.guided * self.together(output[:, 1:], self._views(ctx), self.norms[block], ctx.n_real)
            return output + functional.pad(found, (0, 0, 1, 0)).to(output.dtype)

        return change
