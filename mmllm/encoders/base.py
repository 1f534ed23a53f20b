"""The base of every encoder: frozen, always in eval mode, any subset of its hidden layers.

Its processor reads media on the CPU, for the loader and the server; the model calls ``forward`` on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from mmllm.encoders.float32_buffers import float32_buffers
from mmllm.encoders.hook_points import BlockHooks
from mmllm.encoders.recording import depth
from mmllm.errors import MmllmError
from mmllm.hooks import EncoderContext, Scope, TokenLayout
from mmllm.processors.base import Processor
from mmllm.types import Features, Layer


class Encoder(nn.Module):
    """Frozen model of one modality.

    ``layers`` are indices into the list of hidden states that transformers documents: 0 is what enters the first
    block (the embeddings), k is what leaves block k, -1 is what leaves the last block *before* any final norm, -2 the
    block before it. ``final`` is the state after that norm, as the model itself gives it; where a model has no norm
    behind its last block, as BERT, it is layer -1. Several layers are concatenated on the width by
    ``Features.concatenated``, in the order given. Blocks behind the deepest layer do not run.
    """

    processor: Processor
    """Reads its media; made in ``__init__``."""
    dim: int
    """D, the width of ONE layer."""
    layers: tuple[Layer, ...]
    """The layers as asked for; the keys of ``Features.layers``."""
    gives_final: bool = False
    """Whether ``layers`` may name ``final``: a subclass says so that gives it."""
    host_inputs: ClassVar[tuple[str, ...]] = ()
    """Inputs that its pass reads as numbers: how many pictures, which grids. The model hands them over on the CPU, so
    that nobody waits for the device."""
    final_alone: bool = False
    """Whether ``final`` has a grid or width of its own, so that no other layer can stand beside it."""

    def __init__(self, *, layers: Sequence[Layer] = (-2,)) -> None:
        super().__init__()
        if not layers or len(set(layers)) != len(layers):
            raise MmllmError(f"layers: {list(layers)} must name at least one hidden layer, none of them twice.")
        self.layers = tuple(layers)
        self._check_words()
        self.scope: Scope[EncoderContext] = Scope()
        """Hands the context of the running pass to the hooks in its blocks."""
        self.adapters: list[nn.Module] = []
        """Connectors that work inside this encoder; they are no part of it."""

    @property
    def modality(self) -> str:
        """Kind of media it takes: ``image``."""
        return self.processor.modality

    def forward(self, **inputs: Tensor) -> Features:
        """Collated inputs of N items -> their features, class and register tokens dropped.

        Without gradient unless ``learns()``; its blocks run inside :meth:`laid_out` where connectors can work in them
        (``hook_points()``).
        """
        raise NotImplementedError

    @contextmanager
    def laid_out(self, layout: TokenLayout) -> Iterator[EncoderContext]:
        """Run the blocks: hooks in them learn what their rows are, and whose items where the model opened a context."""
        with self.scope.open(replace(self.scope.peek or EncoderContext(), layout=layout)) as context:
            yield context

    def hook_points(self) -> BlockHooks:
        """Return its blocks, for connectors that work in them.

        Raises:
            MmllmError: it has none of the kind that they could.
        """
        raise MmllmError(f"{type(self).__name__} has no blocks that a connector could work inside.")

    def on_host(self, name: str) -> bool:
        """Whether it takes this input on the CPU wherever it is itself."""
        return name in self.host_inputs

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

    def resolve(self, n_blocks: int, layers: Sequence[Layer] | None = None) -> tuple[Layer, ...]:
        """``layers`` (default: its own) counted from the front, 0..n_blocks, ``final`` as it is.

        Raises:
            MmllmError: one does not exist.
        """
        layers = self.layers if layers is None else layers
        self._check_words(layers)
        for layer in layers:
            if layer != "final" and not -n_blocks - 1 <= layer <= n_blocks:
                raise MmllmError(
                    f"layers: {layer} does not exist: this encoder has {n_blocks} blocks, "
                    f"so 0..{n_blocks} or -{n_blocks + 1}..-1 (0 = embeddings, -1 = last block)."
                )
        return tuple(layer if layer == "final" else layer % (n_blocks + 1) for layer in layers)

    def depth(self, n_blocks: int) -> int:
        """How many of its ``n_blocks`` blocks make the layers that are read of it."""
        return depth(self.resolve(n_blocks), n_blocks)

    def _check_words(self, layers: Sequence[Layer] | None = None) -> None:
        """Raise MmllmError for a word that is not known, or not given here."""
        layers = self.layers if layers is None else layers
        if self.final_alone and "final" in layers and len(layers) > 1:
            raise MmllmError(
                f"layers: {list(layers)} cannot stand side by side: final is of another size in this model; name final "
                "alone, or numbers alone."
            )
        for layer in layers:
            if isinstance(layer, str) and layer != "final":
                raise MmllmError(f'layers: "{layer}" is unknown; known: numbers of layers and final.')
            if layer == "final" and not self.gives_final:
                raise MmllmError(
                    f"layers: final is not given by a {type(self).__name__} as it was made; name layers by their "
                    "numbers, -1 is the last block before any norm."
                )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Encoder:
        """Cast or move, but let the buffers that a model computes in float32 stay in it."""
        # private in torch (read in 2.15): the one way that to(), half(), bfloat16() and a module around all take
        with float32_buffers(self):
            return super()._apply(fn, recurse)
