"""The base of what a comparison shows: items, how a published processor takes them, what its inputs are here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmllm.batches.sample import Encoded
from mmllm.model.model import MultimodalLM
from mmllm.published.source import Source


@dataclass(frozen=True)
class Shown:
    """Items that one conversation shows."""

    name: str
    """Name by which stages call them."""
    ours: tuple[Any, ...]
    """As an encoder here reads them."""
    theirs: tuple[Any, ...]
    """The same as a published processor takes them."""


class Media(ABC):
    """Media of one modality, for one published model."""

    key: str
    """Of the encoder and the connector, which is the modality too."""

    def __init__(self, source: Source) -> None:
        self.source = source

    @property
    @abstractmethod
    def token(self) -> int:
        """Id that stands where an item's tokens go."""

    @abstractmethod
    def shown(self, ours: MultimodalLM) -> Sequence[Shown]:
        """What conversations are about."""

    @abstractmethod
    def given(self, text: str, items: Sequence[Any]) -> dict[str, Tensor]:
        """What the published processor makes of a prompt and of items as it takes them; there may be none."""

    @abstractmethod
    def inputs(
        self, given: dict[str, Tensor], encoded: Encoded, ours: MultimodalLM
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(what, the published model's, ours) of each thing that the encoder sees."""

    def answers(self, given: dict[str, Tensor]) -> bool:
        """Whether the published model's ``generate`` takes these inputs, so that answers can be compared."""
        return True

    @abstractmethod
    def listening(self, theirs: Any, given: dict[str, Tensor]) -> AbstractContextManager[list[Tensor]]:
        """Tokens float[M, D] of the items go into the list in a forward pass of the published model."""
