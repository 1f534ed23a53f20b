"""The ``conformer_adapter`` connector: a convolution over time beside the MLP of a frozen sound encoder (PETL_AST)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmllm.connectors.base import is_noop
from mmllm.connectors.encoder_adapters.block_adapter import EncoderAdapter, pass_of
from mmllm.connectors.layers.batch_norm import RealBatchNorm
from mmllm.errors import MmllmError
from mmllm.hooks import Handle
from mmllm.hooks.points import Encoder, Inside
from mmllm.types import EncoderPass


class ConformerAdapterConnector(EncoderAdapter):
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
        """Set up, without weights until ``adapt``.

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

    def put(self, key: str, encoder: Encoder, inside: Inside, block: int) -> list[Handle]:
        """One beside the MLP."""
        width = max(1, round(inside.dim / self.reduction))

        def make() -> ConformerModule:
            return ConformerModule(inside.dim, width, self.kernel, self.norm, self.dropout)

        layer = self.kept(self.layers, f"{key}-{block}", make, encoder)
        return [inside.add_after_mlp(block, self._add(layer, key, encoder))]

    def _add(self, layer: ConformerModule, key: str, encoder: Encoder) -> Callable[[Tensor, Tensor], Tensor]:
        def add(stream: Tensor, normed: Tensor) -> Tensor:
            if layer.idle:
                return stream.new_zeros(()).expand_as(stream)
            now = pass_of(encoder, self.name)
            return layer(normed.float(), now, self.real_items(key, now))

        return add

    def rest(self) -> None:
        """Skip modules that are frozen and still zero."""
        for layer in self.layers.values():
            assert isinstance(layer, ConformerModule)
            layer.idle = is_noop(layer.last.weight, layer.last.bias)

    @classmethod
    def tiny(cls, dim: int, llm: Any) -> ConformerAdapterConnector:
        """A quarter of the width, over five tokens."""
        return cls(llm_dim=llm.dim, reduction=4, kernel=5)


class ConformerModule(nn.Module):
    """What it adds to one block's stream."""

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

    def forward(self, x: Tensor, now: EncoderPass, real_items: int) -> Tensor:
        """float[rows, prefix + T, D] -> the same shape; items from ``real_items`` on are blank ones."""
        x = functional.glu(self.first(self.before(x)))
        x = self._convolved(x, now)
        if isinstance(self.norm, RealBatchNorm):
            x = self.norm(x, _real(x, now, real_items))
        else:
            x = self.norm(x)
        return self.dropout(self.last(functional.silu(x)))

    def _convolved(self, x: Tensor, now: EncoderPass) -> Tensor:
        """Along the last axis of the grid; a token of the prefix alone."""
        prefix, tokens = x[:, : now.prefix], x[:, now.prefix :]
        if now.mask is not None:
            tokens = tokens * now.mask[..., None]
        lines = tokens.unflatten(1, (-1, now.grid[-1])).flatten(0, 1).transpose(1, 2)  # [rows * bands, r, time]
        tokens = self.conv(lines).transpose(1, 2).reshape(tokens.shape)
        if not now.prefix:
            return tokens
        alone = self.conv(prefix.flatten(0, 1)[..., None])[..., 0].view(prefix.shape)
        return torch.cat([alone, tokens], dim=1)


def _real(x: Tensor, now: EncoderPass, real_items: int) -> Tensor:
    """bool[rows, prefix + T]: tokens of items that are not blank, and no padding."""
    real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if now.mask is not None:
        real[:, now.prefix :] = now.mask
    real[sum(now.rows[:real_items]) :] = False
    return real
