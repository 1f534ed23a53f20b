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
from mmllm.types import Batch, Message, Sample

Turn = tuple[str, str]
"""Role and text."""
TALK: tuple[Turn, ...] = (
    ("user", "What is on it?"), ("assistant", "A test."), ("user", "And what else, in a few words?")
)  # fmt: skip


def talked(talk: Sequence[Turn], tokens: Sequence[str]) -> tuple[Turn, ...]:
    """The turns, the last of them with the first and the last of an LLM's new tokens, where it has some."""
    *before, (role, text) = talk
    return (*before, (role, " ".join([text, *tokens[:1], *tokens[1:][-1:]])))


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
    """Media of one modality, for one published model and what was imported of it."""

    key: str
    """Of the encoder and the connector, which is the modality too."""

    def __init__(self, source: Source, ours: MultimodalLM) -> None:
        self.source, self.ours = source, ours

    @property
    @abstractmethod
    def token(self) -> int:
        """Id that stands where an item's tokens go."""

    def places(self, ids: Tensor) -> Tensor:
        """bool[S], where in ids int64[S] of the published model an item's tokens stand."""
        return ids == self.token

    @abstractmethod
    def shown(self) -> Sequence[Shown]:
        """What conversations are about."""

    @property
    def talk(self) -> Sequence[Turn]:
        """What is said; items are shown in the first turn. To a model that knows no conversations, one question."""
        recipe = self.ours.recipe
        tokens = () if recipe is None else recipe.llm.new_tokens
        return talked(TALK if self.source.asked is None else TALK[:1], tokens)

    def prompt(self, items: int) -> str:
        """What the published chat template writes of the conversation with so many items."""
        parts = [[{"type": "text", "text": text}] for _, text in self.talk]
        parts[0] = [{"type": self.key}] * items + parts[0]
        messages = [{"role": role, "content": content} for (role, _), content in zip(self.talk, parts, strict=True)]
        return self.source.rendered(messages, ask=True)

    def sample(self, items: Sequence[Any]) -> Sample:
        """The same conversation as it is written here."""
        messages = [Message(role, text) for role, text in self.talk]
        messages[0] = Message(messages[0].role, f"<{self.key}>\n" * len(items) + messages[0].text)
        return Sample("comparison", tuple(messages), {self.key: tuple(items)} if items else {})

    def given(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """What the published processor makes of the conversation and of items as it takes them; there may be none."""
        if self.source.asked is not None:
            return self.source.asked(self.source, self.talk[0][1], items)
        return self.processed(self.prompt(len(items)), items)

    @abstractmethod
    def processed(self, text: str, items: Sequence[Any]) -> dict[str, Tensor]:
        """What the published processor makes of a rendered prompt and of items as it takes them."""

    @abstractmethod
    def inputs(self, given: dict[str, Tensor], encoded: Encoded) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(what, the published model's, ours) of each thing that the encoder sees."""

    @contextmanager
    def listening(self, theirs: Any, given: dict[str, Tensor]) -> Iterator[list[Tensor]]:
        """Tokens float[M, D] of the items go into the list in a forward pass of the published model.

        They are what enters its text model at their places: what leaves a projector may be in another order, or hold
        padding.
        """
        features: list[Tensor] = []
        place = self.places(given["input_ids"][0])

        def keep(_: Any, __: Any, words: dict[str, Any]) -> None:
            features.append(words["inputs_embeds"][0][place])

        handle = theirs.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
        try:
            yield features
        finally:
            handle.remove()

    def tokens(self, batch: Batch) -> Tensor:
        """Tokens float[M, D] of the items here."""
        _, embeds = self.ours.embed(batch)
        return embeds[batch.media_positions[self.key]]

    def of_text(self, theirs: Any, given: dict[str, Tensor]) -> Tensor:
        """Logits float[S, V] that the published model gives of a conversation without items."""
        logits: Tensor = theirs(**given).logits[0]
        return logits

    def answers(self, given: dict[str, Tensor]) -> bool:
        """Whether the published model's ``generate`` takes these inputs, so that answers can be compared."""
        return True
