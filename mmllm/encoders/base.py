"""The base of every encoder: frozen, always in eval mode, any subset of its hidden layers.

The loader calls ``read``, ``grid`` and ``collate`` on the CPU; the assembly calls ``forward`` on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmllm.encoders.hook_points import BlockHooks
from mmllm.errors import MmllmError
from mmllm.hooks import EncoderContext, Scope, TokenLayout
from mmllm.types import Features


class Encoder(nn.Module):
    """One modality's frozen model.

    ``layers`` are indices into the list of hidden states that transformers documents: 0 is what enters the first
    block (the embeddings), k is what leaves block k, -1 is what leaves the last block *before* any final norm, -2 the
    block before it. Several layers are concatenated on the width by ``Features.concatenated``, in the order given.
    """

    modality: str
    """What kind of media it reads: ``image``."""
    dim: int
    """D, the width of ONE layer."""
    layers: tuple[int, ...]
    """The layers as asked for; the keys of ``Features.layers``."""

    def __init__(self, *, layers: Sequence[int] = (-2,)) -> None:
        super().__init__()
        if not layers or len(set(layers)) != len(layers):
            raise MmllmError(f"layers: {list(layers)} must name at least one hidden layer, none of them twice.")
        self.layers = tuple(layers)
        self.scope: Scope[EncoderContext] = Scope()
        """Hands the context of the running pass to the hooks in its blocks."""
        self.adapters: list[nn.Module] = []
        """Connectors that work inside this encoder; they are no part of it."""

    @property
    def processor(self) -> Any:
        """Reads its media on the CPU."""
        return self

    def blank(self) -> dict[str, Tensor]:
        """Inputs of one blank item."""
        return self.dummy()

    def read(self, media: Any) -> dict[str, Tensor]:
        """One item (path, bytes or an opened object) -> tensors without the N axis, on CPU; raises ``MediaError``."""
        raise NotImplementedError

    def grid(self, inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
        """Shape of the tokens of one item that ``read`` returned, e.g. (rows, cols); T is its product."""
        raise NotImplementedError

    def measure(self, media: Any) -> Mapping[str, Tensor]:
        """What ``grid`` and ``seconds`` need of one item, found without decoding where its kind allows that."""
        return self.read(media)

    def seconds(self, inputs: Mapping[str, Tensor]) -> Sequence[float] | None:
        """Time of each index of the grid's first axis in seconds; None for what has no time."""
        return None

    def fixed_grid(self) -> tuple[int, ...] | None:
        """The grid that every item has whatever it shows, so lengths are known unread; None where it depends."""
        return None

    def forward(self, **inputs: Tensor) -> Features:
        """Collated inputs of N items -> their features, class and register tokens dropped.

        Without gradient unless ``learns()``; its blocks run inside :meth:`laid_out` where connectors can work in them
        (``hook_points()``).
        """
        raise NotImplementedError

    def dummy(self) -> dict[str, Tensor]:
        """Inputs of one blank item, as ``read`` would give them: what a rank without media runs, times zero."""
        raise NotImplementedError

    @classmethod
    def tiny(cls) -> Encoder:
        """A random encoder of a few thousand weights, always the same ones, for tests; nothing is downloaded."""
        raise NotImplementedError

    def tiny_media(self) -> list[Any]:
        """Three media items that differ, as ``read`` takes them, for tests of a ``tiny()`` one."""
        raise NotImplementedError

    def collate(self, items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Inputs of N single items -> inputs of ``forward``: every tensor stacked on a new first axis N."""
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    @contextmanager
    def laid_out(self, layout: TokenLayout) -> Iterator[EncoderContext]:
        """Run the blocks: hooks in them learn what their rows are, and whose items where the model opened a context."""
        with self.scope.open(replace(self.scope.peek or EncoderContext(), layout=layout)) as context:
            yield context

    def hook_points(self) -> BlockHooks:
        """Where connectors take hold of its blocks."""
        raise MmllmError(f"{type(self).__name__} has no blocks that a connector could work inside.")

    def learns(self) -> bool:
        """Whether its pass needs gradients: a stage trains it, or a connector inside it."""
        modules = (self, *self.adapters)
        return torch.is_grad_enabled() and any(p.requires_grad for module in modules for p in module.parameters())

    def freeze(self) -> None:
        """No weight learns (unless a stage of the recipe says so), dropout off. Every ``__init__`` ends with it."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Encoder:
        """Stay in eval mode whatever is asked: a frozen encoder must give the same features in every phase."""
        return super().train(False)

    def resolve(self, n_blocks: int, layers: Sequence[int] | None = None) -> tuple[int, ...]:
        """``layers`` (default: its own) counted from the front, 0..n_blocks; raises where one does not exist."""
        layers = self.layers if layers is None else layers
        for layer in layers:
            if not -n_blocks - 1 <= layer <= n_blocks:
                raise MmllmError(
                    f"layers: {layer} does not exist: this encoder has {n_blocks} blocks, "
                    f"so 0..{n_blocks} or -{n_blocks + 1}..-1 (0 = embeddings, -1 = last block)."
                )
        return tuple(layer % (n_blocks + 1) for layer in layers)
