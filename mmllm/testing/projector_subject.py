"""A projector under test: how it is made, what it is fed, how it is asked for tokens and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from mmllm.connectors.base import Projector
from mmllm.errors import MmllmError
from mmllm.hooks import ForwardContext
from mmllm.hooks.passes import text_context
from mmllm.testing.tiny.weights import randomise
from mmllm.types import Features, Grid, Layer

KEY = "it"


@dataclass(frozen=True)
class Subject:
    """A projector under test and what it is fed."""

    maker: Callable[..., Projector]
    grids: tuple[Grid, ...]
    layers: tuple[int, ...]
    extras: Callable[[int], dict[str, Tensor]]
    width: int
    llm_width: int
    raster: bool

    def make(self) -> Projector:
        """A new one, the same each time."""
        torch.manual_seed(0)
        made = self.maker(dim=self.width * len(self.layers) * len(self.grids), llm_dim=self.llm_width)
        return made.bind(KEY) if isinstance(made, Projector) else made

    def features(self, n: int = 3, grids: Sequence[Grid] | None = None) -> list[Features]:
        """Random features of n items, from each encoder."""
        generator = torch.Generator().manual_seed(1)
        return [self._features(n, grid, generator) for grid in (self.grids if grids is None else grids)]

    def _features(self, n: int, grid: Grid, generator: torch.Generator) -> Features:
        tokens = prod(grid)
        layers: dict[Layer, torch.Tensor] = {
            layer: torch.randn(n, tokens, self.width, generator=generator) for layer in self.layers
        }
        return Features(layers, torch.ones(n, tokens, dtype=torch.bool), grid, None, self.extras(n))

    def clips(self) -> Iterator[tuple[Grid, ...]]:
        """Grids it takes: those given, and where they are pictures those of clips of four."""
        yield self.grids
        clips = tuple((4, *grid) for grid in self.grids)
        if all(len(grid) == 2 for grid in self.grids) and takes(self.make(), clips):
            yield clips


def answer(projector: Projector, features: Sequence[Features], ctx: ForwardContext | None = None) -> Tensor:
    """Tokens float[N, T, llm_dim], as the model asks for them; in a training pass of its own unless given ``ctx``."""
    words: dict[str, Any] = {}
    if projector.reads_text:
        words["ctx"] = context(len(features[0].mask), projector.llm_dim) if ctx is None else ctx
    tokens: Tensor = projector(*features, **words)
    return tokens


def context(n: int, llm_width: int) -> ForwardContext:
    """A training pass in which each of n items is in a conversation of its own: two words of the user, two answers."""
    own = torch.arange(n)
    ids = own.repeat_interleave(4)[None]
    labelled = torch.tensor([False, False, True, True]).repeat(n)[None]
    return replace(
        text_context(torch.zeros(4 * n, dtype=torch.int64), torch.arange(0, 4 * n + 1, 4, dtype=torch.int32)),
        loss_mask=labelled,
        has_media={KEY: own >= 0},
        media_positions={KEY: own[:0]},
        last_item={KEY: ids},
        item_sequence={KEY: own},
        user_turn=torch.where(labelled, -1, 0),
        text_embeds=torch.randn(4 * n, llm_width, generator=torch.Generator().manual_seed(3)),
    )


def moved(subject: Subject, grids: tuple[Grid, ...], index: int) -> Tensor:
    """float[patches of encoder ``index``, tokens]: how far each token moves when one patch is another one."""
    tokens = prod(grids[index])
    projector = subject.make().eval()
    generator = torch.Generator().manual_seed(4)
    given = []
    for number, one in enumerate(subject.features(1, grids)):
        layers = {key: layer.expand(tokens + 1, -1, -1).clone() for key, layer in one.layers.items()}
        for layer in layers.values() if number == index else ():
            each = torch.arange(tokens)
            layer[each, each] += torch.randn(tokens, layer.shape[-1], generator=generator)
        mask = one.mask.expand(tokens + 1, -1)
        given.append(Features(layers, mask, one.grid, None, subject.extras(tokens + 1)))
    with torch.no_grad():
        out = answer(projector, given)
        if torch.equal(out[:-1], out[1:]):  # its last layer starts at zero
            randomise(projector)
            out = answer(projector, given)
    return (out[:-1] - out[-1:]).norm(dim=-1)


def without_gradient(projector: Projector, subject: Subject) -> list[str]:
    """Names of weights that one training pass gives no gradient."""
    projector.zero_grad()
    ctx = context(3, subject.llm_width)
    out = answer(projector, subject.features(), ctx)
    extra = projector.extra_loss(ctx)
    total = (out * weights(out)).sum()
    (total if extra is None else total + extra).backward()
    return [name for name, p in projector.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]


def unread_patches(projector: Projector, subject: Subject) -> list[list[list[int]]]:
    """Of each encoder [item, patch] that no token's gradient reaches."""
    given = subject.features()
    tensors = [[layer.requires_grad_(True) for layer in one.layers.values()] for one in given]
    out = answer(projector, given)
    (out * weights(out)).sum().backward()
    found = []
    for layers in tensors:
        sums = [torch.zeros(layer.shape[:2]) if layer.grad is None else layer.grad.abs().sum(-1) for layer in layers]
        found.append((torch.stack(sums).sum(dim=0) == 0).nonzero().tolist())
    return found


def weights(out: Tensor) -> Tensor:
    """Random weights by which tokens become one number, so that each counts in its own way."""
    return torch.randn(out.shape, generator=torch.Generator().manual_seed(2))


def takes(projector: Projector, grids: tuple[Grid, ...]) -> bool:
    """Whether it does not refuse these grids."""
    try:
        projector.out_grid(*grids)
    except MmllmError:
        return False
    return True
