"""A reader of numbers, for tests of lengths, places and packing without any media."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mmllm.batches.sample import Item
from mmllm.errors import MediaError
from mmllm.types import Span


class Counting:
    """An input whose items are numbers: item n takes ``fixed`` places, or n of them where ``fixed`` is None."""

    questions = None

    def __init__(self, fixed: int | None = None) -> None:
        self.fixed = fixed
        self.n_read = 0

    def read(self, item: Any) -> Item:
        """Item n -> {"eye": {"value": n}}; a negative one is broken."""
        self.n_read += 1
        if item < 0:
            raise MediaError(f"item {item} is no picture")
        return {"eye": {"value": torch.tensor(float(item))}}

    def n_tokens(self) -> int | None:
        """Places of every item."""
        return self.fixed

    def layout(self, item: Item) -> list[Span]:
        """One span."""
        return [Span("", (int(item["eye"]["value"]) if self.fixed is None else self.fixed,))]

    def measure(self, item: Any) -> Item:
        """The same as reading it."""
        return self.read(item)

    def collate(self, items: Sequence[Item]) -> Item:
        """float[N]."""
        return {"eye": {"value": torch.stack([item["eye"]["value"] for item in items])}}
