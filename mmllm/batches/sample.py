"""One sample -> its final token ids, labels and media inputs: placeholders expanded, length checked; before packing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mmllm.errors import MediaError, SampleError, TooLongError, UnreadableError
from mmllm.messages.tokenize import Prompt, Prompter
from mmllm.types import IGNORE_INDEX, Sample

if TYPE_CHECKING:
    import torch

Inputs = dict[str, "torch.Tensor"]
"""What ``encoder.read`` makes of one item: tensors without batch axis, on the CPU."""


class Reader(Protocol):
    """How one encoder key's media become inputs and places; ``Assembly.readers()`` gives one per key."""

    def read(self, item: Any) -> Inputs:
        """One item (path, bytes, PIL image) -> inputs. Raises MediaError for an unreadable one."""
        ...

    def measure(self, item: Any) -> Mapping[str, torch.Tensor]:
        """What ``tokens`` and ``marks`` need of one item, without decoding it where that is possible."""
        ...

    def tokens(self, inputs: Mapping[str, torch.Tensor] | None) -> int | None:
        """Places the item takes in the LLM's sequence. ``None`` asks for the number that holds for every item
        whatever it shows; the answer is None where there is no such number."""
        ...

    def marks(self, inputs: Mapping[str, torch.Tensor]) -> list[str]:
        """Texts that stand before each of the equal parts of an item's places; none: the places follow each other."""
        ...

    def collate(self, items: list[Inputs]) -> Inputs:
        """Inputs of N items with the batch axis N, as ``encoder.forward`` takes them."""
        ...


@dataclass(frozen=True)
class MediaSpan:
    """Where one item shows, or one part of it between marks: ``length`` places from ``start`` on."""

    start: int
    length: int
    key: str
    """Encoder key."""
    item: int
    """Index into the sample's media of that key."""


@dataclass(frozen=True)
class Encoded:
    """One sample, ready to be packed."""

    ids: list[int]
    """Token ids; 0 at places."""
    labels: list[int]
    """As long as ``ids``; IGNORE_INDEX where there is no loss, so also at the first position and at places."""
    media: dict[str, list[Inputs]]
    """Encoder key -> inputs of its items, in order of their placeholders."""
    spans: list[MediaSpan]
    """One per item or part of it, in order of position."""
    name: str
    n_labels: int
    """Supervised positions."""
    source: str = ""
    """Data key of the recipe it was drawn from, if any."""
    questions: list[int] = field(default_factory=list)
    """As long as ``ids``, see ``Batch.questions``; empty where nothing reads it."""


@dataclass(frozen=True)
class PlannedSample:
    """One sample whose text is tokenised and whose length is known, its media not yet read."""

    sample: Sample
    prompt: Prompt
    length: int
    """Positions it will take, places included."""
    n_labels: int
    prompter: Prompter


def plan(sample: Sample, prompter: Prompter, readers: Mapping[str, Reader], context: int, train: bool) -> PlannedSample:
    """Tokenise and measure without reading media, unless an item's number of places depends on what it shows.

    Raises SampleError: refused by the template, nothing to learn, placeholders and media differ in number, too long.
    """
    prompt = prompter.tokenize_for_training(sample) if train else prompter.tokenize_prompt(sample)
    fixed = {key: readers[key].tokens(None) for _, key in prompt.places}
    length = len(prompt.ids)
    n_media = 0
    count = dict.fromkeys(fixed, 0)
    for _, key in prompt.places:
        places = fixed[key]
        if places is None:
            inputs = _of_item(sample, key, count[key], readers[key].measure)
            places = sum(len(ids) + n for ids, n in _pieces(sample, key, count[key], readers[key], inputs, prompter))
        count[key] += 1
        length += places - 1
        n_media += places
    if length > context:
        raise TooLongError(
            f"{sample.name}: {length} tokens ({n_media} of them media) "
            f"are over the context of {context}; nothing is cut: shorten it or raise llm.context"
        )
    n_labels = len(prompt.labels[1:]) - prompt.labels[1:].count(IGNORE_INDEX)
    if train and not n_labels:
        raise SampleError(f"{sample.name}: the chat template leaves no token to learn")
    return PlannedSample(sample, prompt, length, n_labels, prompter)


def load_media(planned: PlannedSample, readers: Mapping[str, Reader], source: str = "") -> Encoded:
    """Read the media and expand each placeholder into as many places as its item takes. SampleError if unreadable."""
    prompt = planned.prompt
    ids: list[int] = []
    labels: list[int] = []
    questions: list[int] = []
    media: dict[str, list[Inputs]] = {}
    spans = []
    last = 0
    for position, key in prompt.places:
        items = media.setdefault(key, [])
        items.append(_of_item(planned.sample, key, len(items), readers[key].read))
        ids += prompt.ids[last:position]
        labels += prompt.labels[last:position]
        questions += prompt.questions[last:position]
        number = len(items) - 1
        for mark, n_places in _pieces(planned.sample, key, number, readers[key], items[-1], planned.prompter):
            ids += mark
            spans.append(MediaSpan(len(ids), n_places, key, number))
            ids += [0] * n_places
        labels += [IGNORE_INDEX] * (len(ids) - len(labels))
        questions += [-1] * (len(ids) - len(questions)) if prompt.questions else []
        last = position + 1
    ids += prompt.ids[last:]
    labels += prompt.labels[last:]
    questions += prompt.questions[last:]
    if labels:
        labels[0] = IGNORE_INDEX  # nothing precedes it, so nothing predicts it
    if len(ids) != planned.length:
        raise SampleError(f"{planned.sample.name}: {len(ids)} tokens after reading the media, {planned.length} planned")
    return Encoded(ids, labels, media, spans, planned.sample.name, planned.n_labels, source, questions)


def encode(sample: Sample, prompter: Prompter, readers: Mapping[str, Reader], context: int, train: bool) -> Encoded:
    """Sample -> ids, labels and media inputs in one go; ``train=False`` ends on the generation prompt.

    ``context`` is the most tokens the LLM takes. Raises SampleError, which names the sample and what is wrong with it.
    """
    return load_media(plan(sample, prompter, readers, context, train), readers)


Item = TypeVar("Item")


def _of_item(sample: Sample, key: str, index: int, ask: Callable[[Any], Item]) -> Item:
    try:
        return ask(sample.media[key][index])
    except MediaError as error:
        unreadable = UnreadableError(f"{sample.name}: {key} {index + 1}: {error}")
        unreadable.key = key
        raise unreadable from error


def _pieces(
    sample: Sample, key: str, index: int, reader: Reader, inputs: Mapping[str, torch.Tensor], prompter: Prompter
) -> list[tuple[list[int], int]]:
    """(ids of a mark, places after it) of each part of an item; one part without mark where it has no marks."""
    places = reader.tokens(inputs)
    marks = _of_item(sample, key, index, lambda _: reader.marks(inputs))
    if places is None:
        raise TypeError("Reader.tokens(inputs) must give a number")
    if not marks:
        return [([], places)]
    return [(prompter.plain(mark), places // len(marks)) for mark in marks]
