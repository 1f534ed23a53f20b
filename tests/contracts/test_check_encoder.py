"""An encoder or processor that breaks one rule of its contract is told which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmllm.encoders.base import Encoder
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.testing import check_encoder, tiny_encoder
from mmllm.testing.tiny.encoders import pictures
from mmllm.types import Features, Grid


class Wrapped(Encoder):
    """A tiny encoder of pictures behind another class; what is broken derives from it."""

    def __init__(self) -> None:
        inner = tiny_encoder()
        super().__init__(layers=inner.layers)
        self.inner, self.dim, self.processor = inner, inner.dim, self.made(inner.processor)
        self.n_blocks = 3
        self.freeze()

    def made(self, processor: Processor) -> Processor:
        return processor

    def forward(self, **inputs: Tensor) -> Features:
        self.inner.layers = self.layers
        return self.inner(**inputs)


class Reader(Processor):
    """Reads as another one does."""

    modality = "image"

    def __init__(self, inner: Processor) -> None:
        self.inner = inner

    def read(self, media: Any) -> Item:
        return self.inner.read(media)

    def grid(self, info: ItemInfo) -> Grid:
        return self.inner.grid(info)

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        return self.inner.collate(items)

    def blank(self) -> Item:
        return self.inner.blank()


def reading(**methods: Callable[..., Any]) -> Callable[[], Encoder]:
    """Makes an encoder whose processor has these methods instead."""
    processor = type("Broken", (Reader,), methods)
    return type("Wrapped", (Wrapped,), {"made": lambda self, inner: processor(inner)})


class Reading(Wrapped):
    def made(self, processor: Processor) -> Processor:
        return Reader(processor)


class OtherDim(Wrapped):
    def __init__(self) -> None:
        super().__init__()
        self.dim = 8


class WrongMask(Wrapped):
    def forward(self, **inputs: Tensor) -> Features:
        features = super().forward(**inputs)
        return replace(features, mask=torch.zeros_like(features.mask))


class MixesItems(Wrapped):
    def forward(self, **inputs: Tensor) -> Features:
        features = super().forward(**inputs)
        return replace(features, layers={key: x - x.mean(dim=0) for key, x in features.layers.items()})


class Learns(Wrapped):
    def freeze(self) -> None:
        self.requires_grad_(True)


class Trains(Wrapped):
    def train(self, mode: bool = True) -> Encoder:
        nn.Module.train(self, mode)
        self.inner.training = mode
        return self


class NeverLearns(Wrapped):
    @torch.no_grad()
    def forward(self, **inputs: Tensor) -> Features:
        return super().forward(**inputs)


class IsAnotherEachTime(Wrapped):
    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            for parameter in self.inner.parameters():
                parameter.add_(torch.randn_like(parameter))


class HoldsAWeightTwice(Wrapped):
    def __init__(self) -> None:
        super().__init__()
        self.again = self.inner.vision


class CountsLayersFromOne(Wrapped):
    def forward(self, **inputs: Tensor) -> Features:
        features = super().forward(**inputs)
        return replace(features, layers=dict(sorted(features.layers.items())))


class ClampsLayers(Wrapped):
    def resolve(self, n_blocks: int, layers: Sequence[int] | None = None) -> tuple[int, ...]:
        return super().resolve(n_blocks, layers)

    def forward(self, **inputs: Tensor) -> Features:
        asked, self.layers = self.layers, tuple(max(-4, min(3, layer)) for layer in self.layers)
        try:
            return super().forward(**inputs)
        finally:
            self.layers = asked


class StaysInFloat(Wrapped):
    def forward(self, **inputs: Tensor) -> Features:
        features = super().forward(**inputs)
        return replace(features, layers={key: x.float() for key, x in features.layers.items()})


def _fails(self: Any, media: Any) -> Item:
    if isinstance(media, bytes):
        raise OSError("broken")
    return self.inner.read(media)


def _of_bytes(self: Any, media: Any) -> Item:
    item = self.inner.read(media)
    return {key: value + 1 for key, value in item.items()} if isinstance(media, bytes) else item


BROKEN: dict[str, Callable[[], Encoder]] = {
    "layer -2 is (3, 16, 16), expected (3, 16, 8)": OtherDim,
    "the mask does not hold the first": WrongMask,
    "in a batch and alone": MixesItems,
    "weights that learn": Learns,
    "modules are in train mode": Trains,
    "features carry no gradient": NeverLearns,
    "they differ by up to": IsAnotherEachTime,
    "are the same tensor": HoldsAWeightTwice,
    "asked for (3, 0, -1, -4, 1), got": CountsLayersFromOne,
    "layers (4,): no MmllmError": ClampsLayers,
    "torch.float32": StaysInFloat,
    "(4, 4) read, (1, 1) measured": reading(measure=lambda self, media: {"pixels": torch.zeros(3, 8, 8)}),
    "but fixed_grid is (2, 2)": reading(fixed_grid=lambda self: (2, 2)),
    "times (0.0,) for a grid of (4, 4)": reading(seconds=lambda self, info: (0.0,)),
    "the blank one": reading(blank=lambda self: {"pixels": torch.zeros(32, 32)}),
    "OSError (broken) instead of MediaError": reading(read=_fails),
    "bytes and an opened picture differ": reading(read=_of_bytes),
    "cannot be pickled": reading(__reduce__=lambda self: (_ for _ in ()).throw(TypeError("cannot be pickled"))),
}
"""What the error says -> encoder."""


def test_sound_encoders_pass() -> None:
    check_encoder(Wrapped)
    check_encoder(Reading, [*pictures()[:2], pictures()[2].rotate(90)])


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_encoder_is_told_what_is_wrong(text: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_encoder(BROKEN[text])
    assert text in str(caught.value) and "Mend: " in str(caught.value)


def test_what_is_no_encoder_is_told_so() -> None:
    with pytest.raises(AssertionError, match=r"Linear does not derive from mmllm\.encoders\.base\.Encoder"):
        check_encoder(lambda: nn.Linear(1, 1))  # type: ignore[arg-type,return-value]
