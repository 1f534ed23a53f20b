"""The ``ted_adapter`` connector: lets a frozen picture encoder see motion between a clip's frames (M2-CLIP)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.encoder_adapters.block_adapter import BlockAdapter, clips, layout_of, unclipped
from mmllm.connectors.layers.basics import is_noop
from mmllm.errors import MmllmError
from mmllm.hooks import Change, EncoderContext, Handle, TokenLayout
from mmllm.hooks.points import AdaptableEncoder, EncoderHookPoints

PLACES = {"both": ("attention", "mlp"), "attention": ("attention",), "mlp": ("mlp",)}
"""Word of the recipe -> before what it stands."""


class TedAdapterConnector(BlockAdapter):
    """Temporal enhancement and difference (TED-Adapter of M2-CLIP, Wang et al. 2024, arXiv 2401.11649).

    Before the attention and before the MLP of each block, on the residual stream x float[frames, prefix + T, D]::

        enhancement:  x + up(DWConv_time(down x))                           every token, class token included
        difference:   patches + up'(DWConv_3x3(down'(x_t - x_{t-1})))       the first frame's difference is 0

    Both read the same x, and no activation stands between, as in the authors' code. Their convolutions start at zero,
    everything else is drawn: an untrained one changes nothing bit for bit, and ``down`` and ``up`` get gradients from
    the second step on. Clips of a batch may differ in length and never mix; a single picture is a clip of one frame.
    The temporal adapter after M2-CLIP's projection and its text tower's adapters have no place in this model.
    """

    def __init__(
        self,
        *,
        llm_dim: int,
        width: int = 384,
        enhancement: bool = True,
        difference: bool = True,
        places: Literal["both", "attention", "mlp"] = "both",
        blocks: str | list[int] = "all",
    ) -> None:
        """Set up, without weights until ``attach``; the defaults are the authors' for a ViT-B.

        Args:
            llm_dim: width of the LLM.
            width: of the bottleneck (the authors' is half of D).
            enhancement: whether tokens read the frames before and after theirs.
            difference: whether patches read their change since the frame before.
            places: before the ``attention``, the ``mlp`` or ``both`` (the authors take the MLP alone on Kinetics-400).
            blocks: ``all``, ``top half`` or a list of numbers.
        """
        super().__init__(llm_dim=llm_dim, name="ted_adapter", blocks=blocks)
        if width < 1 or not (enhancement or difference):
            raise MmllmError(f"ted_adapter: width {width} must be >= 1 and enhancement or difference must be true.")
        if places not in PLACES:
            raise MmllmError(f"ted_adapter: places {places!r} is unknown; known: {', '.join(PLACES)}.")
        self.width, self.enhancement, self.difference, self.places = width, enhancement, difference, PLACES[places]
        self.layers = nn.ModuleDict()

    def put(self, key: str, encoder: AdaptableEncoder, points: EncoderHookPoints, block: int) -> list[Handle]:
        """Put one before the attention, one before the MLP, or one of the two."""

        def make() -> TedLayer:
            return TedLayer(points.dim, self.width, self.enhancement, self.difference)

        before = {"attention": points.add_before_block, "mlp": points.add_before_mlp}
        made = {place: self.kept(self.layers, f"{key}-{block}-{place}", make, encoder) for place in self.places}
        return [before[place](block, self._add(layer)) for place, layer in made.items()]

    def _add(self, layer: TedLayer) -> Change:
        def add(ctx: EncoderContext, stream: Tensor) -> Tensor:
            if layer.idle:
                return stream.new_zeros(()).expand_as(stream)
            return layer(stream.float(), layout_of(ctx, self.name))

        return add

    def skip_if_zero(self) -> None:
        """Skip layers that are frozen and still zero."""
        for layer in self.layers.values():
            assert isinstance(layer, TedLayer)
            layer.skip_if_zero()


class Branch(nn.Module):
    """``up(conv(down x))`` with a depthwise convolution that starts at zero."""

    def __init__(self, dim: int, width: int, conv: nn.Conv1d | nn.Conv2d) -> None:
        """``conv`` works on ``width`` channels."""
        super().__init__()
        self.down = nn.Linear(dim, width)
        self.conv = conv
        self.up = nn.Linear(width, dim)
        for zero in (*self.zeros(), self.down.bias):
            nn.init.zeros_(zero)

    def zeros(self) -> list[Tensor]:
        """Weights that keep it from adding anything while they are zero."""
        assert self.conv.bias is not None
        return [self.conv.weight, self.conv.bias, self.up.bias]


class Enhancement(Branch):
    """Each token and the same token of the frames before and after."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__(dim, width, nn.Conv1d(width, width, 3, padding=1, groups=width))

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """float[frames, prefix + T, D] -> the same shape; zeros stand beyond a clip's ends."""
        packed = clips(self.down(x), layout.rows).permute(0, 2, 3, 1)  # [N, prefix + T, width, time]
        mixed = self.conv(packed.flatten(0, 1)).unflatten(0, packed.shape[:2])
        return self.up(unclipped(mixed.permute(0, 3, 1, 2), layout.rows))


class Difference(Branch):
    """Each patch's change since the frame before, with the changes around it."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__(dim, width, nn.Conv2d(width, width, 3, padding=1, groups=width))

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """float[frames, prefix + T, D] -> the same shape, zero at the prefix."""
        if len(layout.grid) != 2:
            raise MmllmError(f"ted_adapter: difference needs frames of rows x cols, this encoder's are {layout.grid}.")
        # class and register tokens have no place in the picture: a 3 x 3 neighbourhood of them means nothing
        patches = x[:, layout.prefix :]
        change = self.down(patches - patches[before(layout.rows).to(x.device)])
        moved = self.conv(change.transpose(1, 2).unflatten(2, layout.grid)).flatten(2).transpose(1, 2)
        return functional.pad(self.up(moved), (0, 0, layout.prefix, 0))


class TedLayer(nn.Module):
    """Both branches of one place: what they add to float[frames, prefix + T, D]."""

    def __init__(self, dim: int, width: int, enhancement: bool, difference: bool) -> None:
        """``dim`` is D; a branch that is switched off has no weights."""
        super().__init__()
        self.branches = nn.ModuleDict()
        if enhancement:
            self.branches["enhancement"] = Enhancement(dim, width)
        if difference:
            self.branches["difference"] = Difference(dim, width)
        self.idle = False

    def skip_if_zero(self) -> None:
        """Skip what it adds while it is frozen and zero."""
        branches = [branch for branch in self.branches.values() if isinstance(branch, Branch)]
        self.idle = is_noop(*(zero for branch in branches for zero in branch.zeros()))

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """float[frames, prefix + T, D] -> the same shape; ``layout`` says which frames are one clip."""
        added = [branch(x, layout) for branch in self.branches.values()]
        return added[0] if len(added) == 1 else added[0] + added[1]


def before(rows: tuple[int, ...]) -> Tensor:
    """int64[frames]: the frame before each in its clip; of a first one itself."""
    firsts = [sum(rows[:number]) for number in range(len(rows))]
    return torch.cat([torch.arange(-1, n - 1).clamp(min=0) + first for first, n in zip(firsts, rows, strict=True)])
