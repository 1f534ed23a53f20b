"""The base of adapters inside encoders: which blocks, layers kept by name, put in through ``encoder.inside()``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from mmllm.connectors.base import Attached, Connector
from mmllm.errors import MmllmError
from mmllm.hooks import Handle
from mmllm.hooks.points import Encoder, Inside
from mmllm.types import EncoderPass

BLOCKS = ("all", "top half")
"""Words for blocks of an encoder; the other form is a list of numbers from 0."""
Made = TypeVar("Made", bound=nn.Module)


class EncoderAdapter(Connector):
    """Works inside the blocks of the encoders that ``inside`` names; the encoders themselves stay frozen.

    Its weights are made in ``adapt`` (float32) and belong to it. A subclass says in ``put`` what goes into one block.
    """

    identity_at_start = True

    def __init__(self, *, llm_dim: int, name: str, blocks: str | list[int]) -> None:
        """Set up, without weights until ``adapt``.

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

    def adapt(self, encoders: Mapping[str, Encoder]) -> Attached:
        """Put it into the chosen blocks of each encoder; weights that are there already are used again."""
        handles: list[Handle] = []
        for key, encoder in encoders.items():
            inside = encoder.inside()
            for block in self.chosen(key, max(encoder.resolve(inside.n_blocks))):
                handles += self.put(key, encoder, inside, block)
        return Attached(handles)

    def put(self, key: str, encoder: Encoder, inside: Inside, block: int) -> list[Handle]:
        """Make what belongs into one block of the encoder ``key`` and put it there."""
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

    def kept(self, layers: nn.ModuleDict, name: str, make: Callable[[], Made], encoder: Encoder) -> Made:
        """The layer ``name``, made if it is not there yet, in float32 where the encoder's weights lie."""
        if name not in layers:
            layers[name] = make().to(next(encoder.parameters()).device).train(self.training)
        return layers[name]  # type: ignore[return-value]

    def same_width(self, layers: nn.ModuleDict, inside: Inside, key: str) -> None:
        """Note the width of an encoder that shares layers with others.

        Raises:
            MmllmError: an encoder before it has another one.
        """
        if layers and self.dim != inside.dim:
            raise MmllmError(
                f'{self.name}: encoder "{key}" is {inside.dim} wide and those before it {self.dim}, so they cannot '
                "share adapters; use encoders of one width, or a connector for each."
            )
        self.dim = inside.dim

    def real_items(self, key: str, now: EncoderPass) -> int:
        """Items of this pass that are not the blank one of a rank without media."""
        return len(now.rows) if self.flow is None else min(len(now.rows), len(self.flow.owners[key]))


def pass_of(encoder: Encoder, name: str) -> EncoderPass:
    """Facts of the pass that the encoder is making; MmllmError where it gives none."""
    if encoder.now is None:
        raise MmllmError(f"{name}: {type(encoder).__name__} does not say what its rows are (`now`); choose another.")
    return encoder.now


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
