"""The ``window_qformer`` connector: a Q-Former reads each short window of a sound, of one encoder or of several."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from mmllm.connectors.base import Projector, SeveralEncoders
from mmllm.connectors.layers.windows import Windows
from mmllm.connectors.projectors.qformer import shape_of
from mmllm.errors import MmllmError
from mmllm.types import Features, Grid

Rest = Literal["own", "zeros", "drop"]
"""What becomes of indices behind the last whole window: a window that reads them alone, one that is filled with zeros
which are read too (Granite Speech), or nothing (SALMONN)."""


class WindowQFormerConnector(SeveralEncoders, Projector):
    """The window-level Q-Former of SALMONN (Tang et al. 2024, arXiv 2310.13289), transformers' own, then a linear map.

    Features of all encoders (SALMONN's: Whisper and BEATs) pass a LayerNorm each (``norm``), lie side by side on the
    width, the shorter ones with zeros behind them, and are cut into windows of ``window`` indices (17: a third of a
    second); each is read by ``queries`` learned vectors through ``depth`` blocks of a Q-Former (see ``qformer``). What
    is behind the last whole window, ``rest`` says. ``widths`` are those of the encoders, where there are several: all
    their layers side by side. ``rest: drop`` with the defaults is SALMONN's, 88 tokens in 30 seconds; ``norm: false,
    window: 15, queries: 3, every: ..., rest: zeros`` that of Granite Speech (arXiv 2505.08699). ``window_resampler`` is
    a smaller layer after the same idea.
    """

    accepts_padding = True

    def __init__(
        self,
        *,
        dim: int,
        llm_dim: int,
        window: int = 17,
        queries: int = 1,
        depth: int = 2,
        heads: int = 12,
        width: int = 768,
        mlp_width: int | None = None,
        every: int = 1,
        activation: str = "gelu",
        eps: float = 1e-12,
        dropout: float = 0.0,
        norm: bool = True,
        widths: Sequence[int] | None = None,
        rest: Rest = "own",
    ) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        if window < 1:
            raise MmllmError(f"connector window_qformer window: {window} must be at least 1.")
        if rest not in get_args(Rest):
            raise MmllmError(f"connector window_qformer rest: {rest!r} is unknown; known: {', '.join(get_args(Rest))}.")
        self.widths = (dim,) if widths is None else tuple(widths)
        if sum(self.widths) != dim:
            raise MmllmError(
                f"connector window_qformer widths: {list(self.widths)} are not the {dim} of its encoders' layers side "
                "by side."
            )
        shape = shape_of(
            "window_qformer", dim, queries, depth, heads, width, mlp_width, every, activation, eps, dropout
        )
        self.window, self.n_queries, self.rest = window, queries, rest
        self.norms = nn.ModuleList(nn.LayerNorm(one) if norm else nn.Identity() for one in self.widths)
        self.qformer = Blip2QFormerModel(Blip2QFormerConfig(**shape))
        self.queries = nn.Parameter(torch.randn(queries, width) * 0.02)
        self.output = nn.Linear(width, llm_dim)

    def out_grid(self, *grids: Sequence[int]) -> Grid:
        """Grid (windows, 1, queries), of the longest encoder's; a sound shorter than a window has one.

        Raises:
            MmllmError: another number of encoders than ``widths``, or they differ in more than their length.
        """
        if len(grids) != len(self.widths):
            raise MmllmError(
                f"connector window_qformer widths: {list(self.widths)} are of {len(self.widths)} encoders, and it has "
                f"{len(grids)}; give the width of each, all its layers side by side."
            )
        if len({tuple(grid[1:]) for grid in grids}) > 1:
            given = " and ".join(str(list(grid)) for grid in grids)
            raise MmllmError(f"connector window_qformer: its encoders' grids {given} differ in more than their length.")
        time = max(grid[0] for grid in grids)
        whole = time // self.window if self.rest == "drop" else -(-time // self.window)
        return (max(1, whole), 1, self.n_queries)

    def forward(self, *features: Features) -> Tensor:
        """Read features float[N, T of each, width of each] window by window: float[N, most n_tokens, llm_dim].

        Each item's own tokens come first, zeros behind them.
        """
        counts = [self.out_grid(*grids)[0] for grids in zip(*(one.item_grids() for one in features), strict=True)]
        size = self.window * prod(features[0].grid[1:])
        windows = Windows.of(*self._joined(features, size * max(counts)), counts, size)
        read = windows.mask if self.rest == "own" else torch.ones_like(windows.mask)
        states = self.qformer(
            query_embeds=self.queries.to(windows.values.dtype).expand(len(read), -1, -1),
            encoder_hidden_states=windows.values,
            encoder_attention_mask=read,
        ).last_hidden_state
        return windows.by_item(self.output(states))

    def _joined(self, features: Sequence[Features], length: int) -> tuple[Tensor, Tensor]:
        """All encoders side by side float[N, length, dim], zeros where one hears nothing, and where any does."""
        sides, heard = [], []
        for one, norm in zip(features, self.norms, strict=True):
            x = norm(one.concatenated()) * one.mask[..., None]
            beyond = length - x.shape[1]  # below zero: a rest that is left out
            sides.append(functional.pad(x, (0, 0, 0, beyond)))
            heard.append(functional.pad(one.mask, (0, beyond)))
        return torch.cat(sides, dim=-1), torch.stack(heard).any(dim=0)
