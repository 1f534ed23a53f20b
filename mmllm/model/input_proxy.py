"""An input of the model of which some things are done otherwise: items read before, or drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmllm.model.inputs import Input, Item
from mmllm.types import QuestionReader, Span


class InputProxy:
    """Does what an input does; subclasses do some of it otherwise."""

    def __init__(self, entry: Input) -> None:
        self.entry = entry

    @property
    def questions(self) -> QuestionReader | None:
        """See :class:`Input`."""
        return self.entry.questions

    @property
    def minds_others(self) -> bool:
        """See :class:`Input`."""
        return self.entry.minds_others

    def read(self, media: Any) -> Item:
        """See :class:`Input`."""
        return self.entry.read(media)

    def measure(self, media: Any) -> Mapping[str, Mapping[str, torch.Tensor]]:
        """See :class:`Input`."""
        return self.entry.measure(media)

    def n_tokens(self) -> int | None:
        """See :class:`Input`."""
        return self.entry.n_tokens()

    def layout(self, item: Mapping[str, Mapping[str, torch.Tensor]]) -> list[Span]:
        """See :class:`Input`."""
        return self.entry.layout(item)

    def collate(self, items: Sequence[Item]) -> Item:
        """See :class:`Input`."""
        return self.entry.collate(items)
