"""The base of adapters in the blocks of encoders: which blocks, layers kept by name, hooked in through hook points."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from mmllm.connectors.base import EncoderAdapter
from mmllm.errors import MmllmError
from mmllm.hooks import EncoderContext, Handle, TokenLayout
from mmllm.hooks.points import AdaptableEncoder, EncoderHookPoints

BLOCKS = ("all", "top half")
"""Words for blocks of an encoder; the other form is a list of numbers from 0."""
Made = TypeVar("Made", bound=nn.Module)


class BlockAdapter(EncoderAdapter):
    """Works in the blocks of the encoders that ``adapts`` names; the encoders themselves stay frozen.

    Its weights are made in ``attach`` (float32) and belong to it. A subclass says in ``put`` what goes into one block.
    """

    zero_init = True

    def __init__(self, *, llm_dim: int, name: str, blocks: str | list[int]) -> None:
        """Set up, without weights until ``attach``.

        Args:
            llm_dim: width of the LLM, which it does not touch.
            name: its type in the recipe, for errors.
            blocks: ``all``, ``top half`` (the later ones), or a list of numbers from 0.
        """
        super().__init__(llm_dim=llm_dim)
        if isinstance(blocks, str) and blocks not in BLOCKS:
            raise MmllmError(f'{name}: blocks "{blocks}" is unknown; known: {", ".join(BLOCKS)}, or a list of numbers.')
        self.name = name
        self.blocks = blocks

    def attach(self, encoder: AdaptableEncoder, key: str) -> Handle:
        """Put it into the chosen blocks of the encoder ``key``; weights that are there already are used again."""
        points = encoder.hook_points()
        handles: list[Handle] = []
        # up to the last layer that is read: what changes later blocks would get no gradient
        for block in self.chosen(key, encoder.depth(points.n_blocks)):
            handles += self.put(key, encoder, points, block)
        return Handle.of(handles)

    def put(self, key: str, encoder: AdaptableEncoder, points: EncoderHookPoints, block: int) -> list[Handle]:
        """Make what belongs into one block of the encoder ``key`` and hook it in there."""
        raise NotImplementedError

    def chosen(self, key: str, n_used: int) -> list[int]:
        """Numbers of the blocks to work in, out of the first ``n_used``: later ones give nothing that is read.

        Raises:
            MmllmError: a block that is not among them, none, or one named twice.
        """
        half = n_used // 2 if self.blocks == "top half" else 0
        chosen = list(range(half, n_used)) if isinstance(self.blocks, str) else list(self.blocks)
        wrong = [block for block in chosen if not 0 <= block < n_used]
        if wrong or len(set(chosen)) < len(chosen) or not chosen:
            raise MmllmError(
                f"{self.name}: blocks {self.blocks} must be different numbers from 0 to {n_used - 1}, the blocks of "
                f'encoder "{key}" up to the last of its layers that are read, and at least one.'
            )
        return chosen

    def kept(self, layers: nn.ModuleDict, name: str, make: Callable[[], Made], encoder: AdaptableEncoder) -> Made:
        """The layer ``name``, made if it is not there yet, in float32 where the encoder's weights lie."""
        if name not in layers:
            layers[name] = make().to(next(encoder.parameters()).device).train(self.training)
        return layers[name]  # type: ignore[return-value]

    def same_width(self, layers: nn.ModuleDict, points: EncoderHookPoints, key: str) -> None:
        """Note the width of an encoder that shares layers with others.

        Raises:
            MmllmError: an encoder before it has another one.
        """
        if layers and self.dim != points.dim:
            raise MmllmError(
                f'{self.name}: encoder "{key}" is {points.dim} wide and those before it {self.dim}, so they cannot '
                "share adapters; use encoders of one width, or a connector for each."
            )
        self.dim = points.dim


def layout_of(ctx: EncoderContext, name: str) -> TokenLayout:
    """Rows and tokens of this pass; MmllmError where the encoder does not say what they are."""
    if ctx.layout is None:
        raise MmllmError(f"{name}: its encoder does not say what its rows are (`laid_out`); choose another.")
    return ctx.layout


def clips(x: Tensor, rows: tuple[int, ...]) -> Tensor:
    """float[sum of rows, ...], item after item -> float[N, most rows, ...], zeros behind the shorter ones."""
    if len(set(rows)) == 1:
        return x.unflatten(0, (len(rows), rows[0]))
    return nn.utils.rnn.pad_sequence(list(x.split(list(rows))), batch_first=True)


def unclipped(x: Tensor, rows: tuple[int, ...]) -> Tensor:
    """The inverse of :func:`clips`."""
    if len(set(rows)) == 1:
        return x.flatten(0, 1)
    return torch.cat([item[:n] for item, n in zip(x, rows, strict=True)])
