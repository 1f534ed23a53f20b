"""The base of what a comparison shows: items, how a published processor takes them, what its inputs are here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmllm.batches.sample import Encoded
from mmllm.model.model import MultimodalLM
from mmllm.published.source import Source
from mmllm.types import Batch

Talk = Sequence[tuple[str, str]]
"""(role, text) of each turn of a conversation."""


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

    def given(self, talk: Talk, items: Sequence[Any]) -> dict[str, Tensor]:
        """What the published processor makes of a conversation whose first turn shows ``items`` as it takes them."""
        if self.source.asked is not None:
            return self.source.asked(self.source, talk[0][1], items)
        parts = [[{"type": "text", "text": text}] for _, text in talk]
        parts[0] = [{"type": self.key}] * len(items) + parts[0]
        messages = [{"role": role, "content": content} for (role, _), content in zip(talk, parts, strict=True)]
        return self.processed(self.source.rendered(messages, ask=True), items)

    @abstractmethod
    def processed(self, text: str, items: Sequence[Any]) -> dict[str, Tensor]:
        """What the published processor makes of a rendered prompt and of items as it takes them; there may be none."""

    @abstractmethod
    def inputs(
        self, given: dict[str, Tensor], encoded: Encoded, ours: MultimodalLM
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(what, the published model's, ours) of each thing that an encoder sees."""

    def answers(self, given: dict[str, Tensor]) -> bool:
        """Whether the published model's ``generate`` takes these inputs, so that answers can be compared."""
        return True

    @contextmanager
    def listening(self, theirs: Any, given: dict[str, Tensor], ours: MultimodalLM) -> Iterator[list[Tensor]]:
        """Tokens float[M, D] of the items go into the list in a forward pass of the published model.

        They are what enters its text model at their places: what leaves a projector may be in another order, or hold
        padding.
        """
        features: list[Tensor] = []
        place = given["input_ids"][0] == self.token

        def keep(_: Any, __: Any, words: dict[str, Any]) -> None:
            features.append(words["inputs_embeds"][0][place])

        handle = theirs.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
        try:
            yield features
        finally:
            handle.remove()

    def tokens(self, batch: Batch, ours: MultimodalLM) -> Tensor:
        """What the LLM here is given of the items, float[M, D]."""
        _, embeds = ours.embed(batch)
        return embeds[batch.media_positions[self.key]]

    def of_text(self, theirs: Any, given: dict[str, Tensor]) -> Tensor:
        """Logits float[S, V] that the published model gives of a conversation without items."""
        logits: Tensor = theirs(**given).logits[0]
        return logits
