"""The ``conformer_adapter`` connector: a convolution over time beside the MLP of a frozen sound encoder (PETL_AST)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.encoder_adapters.block_adapter import BlockAdapter, layout_of
from mmllm.connectors.layers.basics import is_noop
from mmllm.connectors.layers.batch_norm import RealBatchNorm
from mmllm.errors import MmllmError
from mmllm.hooks import ChangeOutput, EncoderContext, Handle, TokenLayout
from mmllm.hooks.points import AdaptableEncoder, EncoderHookPoints


class ConformerAdapterConnector(BlockAdapter):
    """``h + MLP(LN h) + A(LN h)`` with Conformer's convolution module as A (Cappellazzo et al. 2024, arXiv 2312.03694).

    A: LN -> linear D -> 2r -> GLU -> depthwise convolution along the last axis of the encoder's grid (time) ->
    BatchNorm -> SiLU -> linear r -> D, which starts at zero: an untrained one changes nothing bit for bit.

    As in the authors' wav2vec2 code the LN counts (their AST code discards it). Unlike there, the convolution does not
    run from one band of a spectrogram into the next, nor over class tokens (each is a sequence of its own), the
    encoder's own norms stay frozen, and padding enters neither the convolution nor the statistics; what the BatchNorm
    does in which mode stands in :class:`RealBatchNorm`. ``norm: layer`` has no statistics at all.
    """

    def __init__(
        self,
        *,
        llm_dim: int,
        reduction: int = 64,
        kernel: int = 31,
        norm: Literal["batch", "layer"] = "batch",
        dropout: float = 0.0,
        blocks: str | list[int] = "all",
    ) -> None:
        """Set up, without weights until ``attach``.

        Args:
            llm_dim: width of the LLM.
            reduction: D over r (the authors': 64 to 96).
            kernel: tokens that the convolution spans, an odd number.
            norm: after the convolution.
            dropout: of what is added, while training.
            blocks: ``all``, ``top half`` or a list of numbers.
        """
        super().__init__(llm_dim=llm_dim, name="conformer_adapter", blocks=blocks)
        if reduction < 1 or kernel < 1 or kernel % 2 == 0 or not 0 <= dropout < 1:
            raise MmllmError(
                f"conformer_adapter: reduction {reduction} must be >= 1, kernel {kernel} odd and dropout {dropout} in "
                "[0, 1)."
            )
        if norm not in ("batch", "layer"):
            raise MmllmError(f"conformer_adapter: norm {norm!r} is unknown; known: batch, layer.")
        self.reduction, self.kernel, self.norm, self.dropout = reduction, kernel, norm, dropout
        self.layers = nn.ModuleDict()

    def put(self, key: str, encoder: AdaptableEncoder, points: EncoderHookPoints, block: int) -> list[Handle]:
        """Put one beside the MLP."""
        width = max(1, round(points.dim / self.reduction))

        def make() -> ConformerModule:
            return ConformerModule(points.dim, width, self.kernel, self.norm, self.dropout)

        layer = self.kept(self.layers, f"{key}-{block}", make, encoder)
        return [points.add_after_mlp(block, self._add(layer))]

    def _add(self, layer: ConformerModule) -> ChangeOutput:
        def add(ctx: EncoderContext, stream: Tensor, normed: Tensor) -> Tensor:
            if layer.idle:
                return stream.new_zeros(()).expand_as(stream)
            return layer(normed.float(), layout_of(ctx, self.name), ctx.n_real)

        return add

    def skip_if_zero(self) -> None:
        """Skip modules that are frozen and still zero."""
        for layer in self.layers.values():
            assert isinstance(layer, ConformerModule)
            layer.idle = is_noop(layer.last.weight, layer.last.bias)


class ConformerModule(nn.Module):
    """Convolution module of one block: what is added to its stream."""

    def __init__(self, dim: int, width: int, kernel: int, norm: str, dropout: float) -> None:
        """``dim`` is D, ``width`` r."""
        super().__init__()
        self.before = nn.LayerNorm(dim)
        self.first = nn.Linear(dim, 2 * width)
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm: nn.Module = RealBatchNorm(width) if norm == "batch" else nn.LayerNorm(width)
        self.last = nn.Linear(width, dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.idle = False

    def forward(self, x: Tensor, layout: TokenLayout, real_items: int) -> Tensor:
        """float[rows, prefix + T, D] -> the same shape; items from ``real_items`` on are blank ones."""
        x = functional.glu(self.first(self.before(x)))
        x = self._convolved(x, layout)
        if isinstance(self.norm, RealBatchNorm):
            x = self.norm(x, _real(x, layout, real_items))
        else:
            x = self.norm(x)
        return self.dropout(self.last(functional.silu(x)))

    def _convolved(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """Along the last axis of the grid; a token of the prefix alone."""
        prefix, tokens = x[:, : layout.prefix], x[:, layout.prefix :]
        if layout.mask is not None:
            # zeros, as beyond the ends: what an encoder makes of padding must not reach its neighbours
            tokens = tokens * layout.mask[..., None]
        lines = tokens.unflatten(1, (-1, layout.grid[-1])).flatten(0, 1).transpose(1, 2)  # [rows * bands, r, time]
        tokens = self.conv(lines).transpose(1, 2).reshape(tokens.shape)
        if not layout.prefix:
            return tokens
        # the convolution of a sequence of one
        alone = self.conv(prefix.flatten(0, 1)[..., None])[..., 0].view(prefix.shape)
        return torch.cat([alone, tokens], dim=1)


def _real(x: Tensor, layout: TokenLayout, real_items: int) -> Tensor:
    """bool[rows, prefix + T]: tokens of items that are not blank, and no padding."""
    real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if layout.mask is not None:
        real[:, layout.prefix :] = layout.mask
    real[sum(layout.rows[:real_items]) :] = False
    return real
