"""One sample -> its final token ids, labels and media inputs: placeholders expanded, length checked; before packing."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mmllm.errors import MediaError, SampleError, TooLongError, UnreadableError
from mmllm.messages import placeholders
from mmllm.messages.tokenize import Prompt, Prompter
from mmllm.types import (
    IGNORE_INDEX,
    QUESTION,
    Bidirectional,
    Grid,
    QuestionReader,
    Sample,
    Segment,
    Span,
    identity,
)

if TYPE_CHECKING:
    import torch

Item = dict[str, dict[str, "torch.Tensor"]]
"""Encoder key -> inputs its processor makes of one item: tensors without batch axis, on the CPU."""


Asked = Mapping[str, Sequence[Item]]
"""Placeholder -> of each of its items what its connector reads of the message that shows it; mostly nothing."""


class MediaInput(Protocol):
    """Turns the media of one placeholder into inputs and places; ``MultimodalLM.inputs`` has one per placeholder."""

    @property
    def questions(self) -> QuestionReader | None:
        """Reads the text of the message that shows an item; None where its connector does not ask for it."""
        ...

    @property
    def minds_others(self) -> bool:
        """Whether an item is read differently beside others of its conversation, which it is told by ``Among``."""
        ...

    def read(self, media: Any) -> Item:
        """One item (path, bytes, PIL image) -> inputs. Raises MediaError for an unreadable one."""
        ...

    def measure(self, media: Any) -> Mapping[str, Mapping[str, torch.Tensor]]:
        """Return what ``layout`` needs of one item, without decoding it where that is possible."""
        ...

    def n_tokens(self) -> int | None:
        """Places that every item takes whatever it shows; None where there is no such number."""
        ...

    def layout(self, item: Mapping[str, Mapping[str, torch.Tensor]]) -> list[Span]:
        """Spans of the item's places with the separators between them, known without running an encoder."""
        ...

    def collate(self, items: Sequence[Item]) -> Item:
        """Inputs of N items with the batch axis N, as ``encoder.forward`` takes them."""
        ...


@dataclass(frozen=True)
class MediaSpan:
    """One span of an item's layout: ``length`` places from ``start`` on.

    An item has one span, or several with separators between them: time marks now, newlines and tiles later.
    """

    start: int
    length: int
    key: str
    """Placeholder."""
    item: int
    """Index into the sample's media of that placeholder."""
    grid: Grid
    """Grid of its places, for position schemes with more than one axis."""
    interval: float | None = None
    """Seconds from one of the grid's steps in time to the next, see ``Span``."""
    bidirectional: bool = False
    """Whether its places see each other in both directions."""


@dataclass(frozen=True)
class Encoded:
    """One sample, ready to be packed."""

    ids: list[int]
    """Token ids; 0 at places."""
    labels: list[int]
    """One per id; IGNORE_INDEX where there is no loss, so also at the first position and at places."""
    media: dict[str, list[Item]]
    """Placeholder -> inputs of its items, in order of their placeholders."""
    spans: list[MediaSpan]
    """One per item or part of it, in order of position."""
    name: str
    n_labels: int
    """Supervised positions."""
    dataset: str = ""
    """Data key of the recipe it was drawn from, if any."""
    user_turn: list[int] = field(default_factory=list)
    """One per id, see ``Batch.user_turn``; empty where nothing reads it."""
    segments: tuple[Segment, ...] | None = None
    """Of a tree of conversations that begin alike (``trees.py``): its stretches; None: one conversation."""
    position_ids: torch.Tensor | None = None
    """int64[P, ids] of a tree; None: by the rule of ``positions``."""
    n_conversations: int = 1
    prefix: int = 0
    """How many of the first positions see each other in both directions, see ``Prompt.prefix``."""

    @property
    def bidirectional(self) -> tuple[Bidirectional, ...]:
        """Its stretches that are not causal, in order: the prefix and the spans behind it."""
        spans = [one for one in self.spans if one.bidirectional and one.start >= self.prefix]
        found = [Bidirectional(one.start, one.start + one.length) for one in spans]
        # a window does not cut what the whole prefix sees of itself, and so not what its items do
        before = [Bidirectional(0, self.prefix, windowed=False)]
        return tuple(one for one in (*before, *found) if one.end - one.start > 1)


@dataclass(frozen=True)
class PlannedText:
    """The text of one planned sample: all that other ranks need to know of it."""

    name: str
    prompt: Prompt
    length: int
    """Positions it will take, places included."""
    n_labels: int
    shown: Hashable | None
    """Equal for samples that show the same media; None: unknown, or nobody asked."""
    asked: Asked

    def of(self, sample: Sample, prompter: Prompter) -> PlannedSample:
        """The planned sample whose text this is."""
        return PlannedSample(sample, self.prompt, self.length, self.n_labels, prompter, self.asked)


@dataclass(frozen=True)
class PlannedSample:
    """One sample whose text is tokenised and whose length is known, its media not yet read."""

    sample: Sample
    prompt: Prompt
    length: int
    """Positions it will take, places included."""
    n_labels: int
    prompter: Prompter
    asked: Asked

    @property
    def name(self) -> str:
        """Of the sample."""
        return self.sample.name

    @property
    def shown(self) -> Hashable | None:
        """Equal for samples that show the same media, also in other processes; None where that is unknown."""
        media = self.sample.media
        items = tuple((key, identity(item)) for key in sorted(media) for item in media[key])
        if any(known is None for _, known in items):
            return None
        # ranks tell each other: a digest of bytes, not the bytes
        short = ((key, blake2b(one).digest() if isinstance(one, bytes) else one) for key, one in items)
        return tuple(short)

    def told(self, shows: bool) -> PlannedText:
        """Its text alone; ``shows``: and what it shows."""
        return PlannedText(
            self.name, self.prompt, self.length, self.n_labels, self.shown if shows else None, self.asked
        )


def check_characters(name: str, count: int, prompter: Prompter, context: int) -> None:
    """Raise TooLongError for messages of ``count`` characters that cannot fit ``context`` tokens.

    Tokenising costs seconds and hundreds of megabytes for each megabyte of text; this costs nothing.
    """
    most = context * prompter.longest_token
    if count > most:
        raise TooLongError(
            f"{name}: {count} characters are over the context of {context} tokens, which hold {most} at most; "
            "nothing is cut: shorten it or raise llm.context"
        )


def plan(
    sample: Sample, prompter: Prompter, inputs: Mapping[str, MediaInput], context: int, train: bool
) -> PlannedSample:
    """Tokenise and measure without reading media, unless an item's number of places depends on what it shows.

    Raises SampleError: refused by the template, nothing to learn, placeholders and media differ in number, too long.
    """
    check_characters(sample.name, sum(len(message.text) for message in sample.messages), prompter, context)
    laid_out = {key: _measured(sample, key, inputs[key]) for key in prompter.fronted}
    fronts = {key: [spans[0].front if spans else "" for spans in items] for key, items in laid_out.items()}
    prompt = (prompter.tokenize_for_training if train else prompter.tokenize_prompt)(sample, fronts)
    fixed = {key: inputs[key].n_tokens() for _, key in prompt.places}
    length = len(prompt.ids)
    n_media = 0
    asked: dict[str, list[Item]] = {key: [] for key in fixed}
    for _, key in prompt.places:
        places, number = fixed[key], len(asked[key])
        asked[key].append(_asked(sample, prompter, key, number, inputs[key]))
        if places is None:
            if key not in laid_out:
                laid_out[key] = _measured(sample, key, inputs[key])
            spans = laid_out[key][number]
            places = sum(len(prompter.separator(span)) + span.length for span in spans)
        # the placeholder's own position goes: its places stand there
        length += places - 1
        n_media += places
    if length > context:
        raise TooLongError(
            f"{sample.name}: {length} tokens ({n_media} of them media) "
            f"are over the context of {context}; nothing is cut: shorten it or raise llm.context"
        )
    # without the first position: nothing precedes it, so nothing predicts it
    n_labels = len(prompt.labels[1:]) - prompt.labels[1:].count(IGNORE_INDEX)
    if train and not n_labels:
        raise SampleError(f"{sample.name}: the chat template leaves no token to learn")
    return PlannedSample(sample, prompt, length, n_labels, prompter, asked)


def load_media(planned: PlannedSample, inputs: Mapping[str, MediaInput], dataset: str = "") -> Encoded:
    """Read the media and expand each placeholder into as many places as its item takes. SampleError if unreadable."""
    prompt = planned.prompt
    ids: list[int] = []
    labels: list[int] = []
    user_turn: list[int] = []
    media: dict[str, list[Item]] = {}
    spans = []
    last = 0
    prefix = prompt.prefix
    for position, key in prompt.places:
        items = media.setdefault(key, [])
        item = _of_item(planned.sample, key, len(items), inputs[key].read, inputs[key].minds_others)
        asked = planned.asked[key][len(items)]
        items.append({**item, **asked} if asked else item)
        ids += prompt.ids[last:position]
        labels += prompt.labels[last:position]
        user_turn += prompt.user_turn[last:position]
        number, begin = len(items) - 1, len(ids)
        for span in _layout(planned.sample, key, number, inputs[key], items[-1]):
            ids += planned.prompter.separator(span)
            both = key in planned.prompter.bidirectional
            spans.append(MediaSpan(len(ids), span.length, key, number, span.grid, span.interval, both))
            ids += [0] * span.length
        if position < prompt.prefix:
            prefix += len(ids) - begin - 1
        labels += [IGNORE_INDEX] * (len(ids) - len(labels))
        # places are no text of the message: a question read from them would be a mean of pictures
        user_turn += [-1] * (len(ids) - len(user_turn)) if prompt.user_turn else []
        last = position + 1
    ids += prompt.ids[last:]
    labels += prompt.labels[last:]
    user_turn += prompt.user_turn[last:]
    if labels:
        labels[0] = IGNORE_INDEX  # nothing precedes it, so nothing predicts it
    # a header that promised another length (a clip with fewer frames) would unbalance every rank's bins
    if len(ids) != planned.length:
        raise SampleError(f"{planned.sample.name}: {len(ids)} tokens after reading the media, {planned.length} planned")
    name, n_labels = planned.sample.name, planned.n_labels
    return Encoded(ids, labels, media, spans, name, n_labels, dataset, user_turn, prefix=prefix)


def encode(sample: Sample, prompter: Prompter, inputs: Mapping[str, MediaInput], context: int, train: bool) -> Encoded:
    """Sample -> ids, labels and media inputs in one go; ``train=False`` ends on the generation prompt.

    ``context`` is the most tokens the LLM takes. Raises SampleError, which names the sample and what is wrong with it.
    """
    return load_media(plan(sample, prompter, inputs, context, train), inputs)


Found = TypeVar("Found")


def _of_item(sample: Sample, key: str, index: int, ask: Callable[[Any], Found], minds_others: bool = False) -> Found:
    try:
        return ask(sample.items(key, minds_others)[index])
    except MediaError as error:
        unreadable = UnreadableError(f"{sample.name}: {key} {index + 1}: {error}")
        unreadable.key = key
        raise unreadable from error


def _asked(sample: Sample, prompter: Prompter, key: str, index: int, entry: MediaInput) -> Item:
    """What the connector of ``key`` reads of the message that shows an item, to be a part of the item; mostly nothing.

    The index counts the places of ``<key>``, which come in the order of the messages.
    """
    if entry.questions is None:
        return {}
    for message in sample.messages:
        here = placeholders.count(message, key)
        if index < here:
            text = "".join(text for text, place in placeholders.pieces(message, prompter.placeholders) if not place)
            try:
                return {QUESTION: entry.questions.read(text.strip())}
            except SampleError as error:
                raise type(error)(f"{sample.name}: {error}") from error
        index -= here
    raise SampleError(f"{sample.name}: no message shows {key} {index + 1}")


def _measured(sample: Sample, key: str, entry: MediaInput) -> list[list[Span]]:
    """Spans of each item of a placeholder, without reading them."""
    numbers = range(len(sample.media.get(key, ())))
    items = [_of_item(sample, key, number, entry.measure, entry.minds_others) for number in numbers]
    return [_layout(sample, key, number, entry, item) for number, item in enumerate(items)]


def _layout(
    sample: Sample, key: str, index: int, entry: MediaInput, item: Mapping[str, Mapping[str, torch.Tensor]]
) -> list[Span]:
    return _of_item(sample, key, index, lambda _: entry.layout(item))
