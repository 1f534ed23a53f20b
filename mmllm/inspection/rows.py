"""Chosen rows of a dataset as the model will see them: their tokens, and each media item as its encoders get it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmllm.batches.sample import Encoded, load_media, plan
from mmllm.datasets.base import Dataset
from mmllm.errors import MmllmError, SampleError
from mmllm.inspection.inputs import Reading
from mmllm.inspection.tokens import Piece, pieces_of
from mmllm.types import Message, Sample

if TYPE_CHECKING:
    from mmllm.inspection.views import View


@dataclass(frozen=True)
class ShownRow:
    """One row of a dataset."""

    number: int
    """Counted from 1."""
    name: str
    """As errors and logs name it."""
    problem: str | None = None
    """Why training will skip it, if it will."""
    pieces: tuple[Piece, ...] = ()
    """Its tokens; none where it cannot be used."""
    n_tokens: int = 0
    n_media: int = 0
    """Of them places of media, and the times between them."""
    n_labels: int = 0
    """Supervised positions."""
    views: tuple[View, ...] = ()
    messages: tuple[Message, ...] = ()
    """What it says, where there are no tokens to show."""


def shown_row(dataset: Dataset, index: int, reading: Reading) -> ShownRow:
    """Return row ``index``, counted from 0, with its media decoded; what is wrong with it stands in ``problem``."""
    try:
        sample = dataset[index]
    except SampleError as error:
        return ShownRow(index + 1, f"row {index + 1}", str(error))
    try:
        # without a limit: an over-long row is shown, and said to be one
        planned = plan(sample, reading.prompter, reading.inputs, sys.maxsize, train=True)
        encoded = load_media(planned, reading.inputs)
    except SampleError as error:
        return ShownRow(index + 1, sample.name, str(error), messages=sample.messages)
    n_tokens = len(encoded.ids)
    n_text = len(planned.prompt.ids) - len(planned.prompt.places)
    over = n_tokens > reading.context
    problem = f"{n_tokens:,} tokens are over the context of {reading.context:,}; nothing is cut" if over else None
    return ShownRow(
        index + 1,
        sample.name,
        problem,
        tuple(pieces_of(encoded, reading.tokenizer)),
        n_tokens,
        n_tokens - n_text,
        encoded.n_labels,
        tuple(_views(sample, encoded, reading)),
    )


def _views(sample: Sample, encoded: Encoded, reading: Reading) -> list[View]:
    if not any(encoded.media.values()):
        return []
    from mmllm.inspection.views import view

    found = []
    for key, items in encoded.media.items():
        places = _places(encoded, key)
        for number, item in enumerate(items):
            for name, processor in reading.processors.get(key, {}).items():
                of = f" for encoders.{name}" if len(item) > 1 or name != key else ""
                title = f"<{key}> {number + 1}{of}: {places[number]} place{'s' * (places[number] != 1)}"
                found.append(view(title, processor, sample.media[key][number], dict(item[name])))
    return found


def _places(encoded: Encoded, key: str) -> list[int]:
    """Places of each item of a placeholder."""
    counts = [0] * len(encoded.media[key])
    for span in encoded.spans:
        if span.key == key:
            counts[span.item] += span.length
    return counts


def chosen(dataset: Dataset, first: int, numbers: list[int]) -> list[int]:
    """Return indices from 0 of the first rows, or of those whose numbers from 1 are given; MmllmError for none such."""
    if first < 0:
        raise MmllmError(f"--rows {first}: the number of rows to show is 0 or more")
    if not numbers:
        return list(range(min(first, len(dataset))))
    for number in numbers:
        if not 1 <= number <= len(dataset):
            raise MmllmError(
                f"there is no row {number} in {dataset.name}; it has {len(dataset):,} rows, counted from 1"
            )
    return [number - 1 for number in numbers]
