"""What all rows of a dataset come to: lengths, rows that cannot be used and why, those over the context, duplicates.

Nothing is decoded: lengths are planned as in training, files are looked for, and of pictures the head is read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import mean

from mmllm.batches.sample import plan
from mmllm.datasets.base import Dataset
from mmllm.errors import MediaError, SampleError
from mmllm.inspection.duplicates import Conversations, Duplicates
from mmllm.inspection.inputs import Reading
from mmllm.inspection.media_files import check_file
from mmllm.inspection.naming import Named
from mmllm.inspection.reasons import Reasons
from mmllm.types import Sample

MOST = 10_000
"""Rows that are looked through; of a longer dataset the first."""


@dataclass(frozen=True)
class Length:
    """Tokens of one row."""

    text: int
    media: int
    """Places of media, with the times between them."""
    labels: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.text + self.media


@dataclass
class Survey:
    """What the rows come to."""

    n_rows: int
    """Of the dataset."""
    context: int
    n_read: int = 0
    """Rows looked through."""
    lengths: list[Length] = field(default_factory=list)
    """Of every row that has one, in order; those over the context too."""
    reasons: Reasons = field(default_factory=Reasons)
    """Why rows are bad."""
    too_long: Named = field(default_factory=Named)
    """Rows over the context: training skips them, as nothing is cut."""
    without_media: Named = field(default_factory=Named)
    """Rows without an item of any placeholder."""
    with_media: dict[str, int] = field(default_factory=dict)
    """Placeholder -> rows that have items of it."""
    duplicates: Duplicates = field(default_factory=Duplicates)

    @property
    def skipped(self) -> int:
        """Rows that training will not use."""
        return self.reasons.count + self.too_long.count

    def spread(self, of: Callable[[Length], int]) -> tuple[int, int, float, int, int] | None:
        """Return least, median, mean, 95th percentile and most of a number of every length; None without rows."""
        values = sorted(map(of, self.lengths))
        if not values:
            return None
        last = len(values) - 1
        return values[0], values[last // 2], mean(values), values[round(0.95 * last)], values[-1]


def survey(dataset: Dataset, reading: Reading, progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> Survey:
    """Look through the first :data:`MOST` rows; ``progress`` wraps the row numbers, to show how far it is."""
    found = Survey(len(dataset), reading.context, with_media=dict.fromkeys(reading.inputs, 0))
    conversations = Conversations()
    for index in progress(range(min(len(dataset), MOST))):
        found.n_read += 1
        try:
            sample = dataset[index]
        except SampleError as error:
            found.reasons.add(f"row {index + 1}", str(error))
            continue
        _count_media(found, sample)
        conversations.add(sample)
        try:
            _add(found, sample, reading)
        except SampleError as error:
            found.reasons.add(sample.name, str(error))
    found.duplicates = conversations.duplicates()
    return found


def _count_media(found: Survey, sample: Sample) -> None:
    for key in found.with_media:
        found.with_media[key] += bool(sample.media.get(key))
    if found.with_media and not any(sample.media.values()):
        found.without_media.add(sample.name)


def _add(found: Survey, sample: Sample, reading: Reading) -> None:
    """Add the row's length; SampleError where training could not use it."""
    planned = plan(sample, reading.prompter, reading.inputs, sys.maxsize, train=True)
    for key, items in sample.media.items():
        for number, item in enumerate(items, 1):
            try:
                check_file(item, [one.modality for one in reading.processors.get(key, {}).values()])
            except MediaError as error:
                raise SampleError(f"{sample.name}: {key} {number}: {error}") from error
    text = len(planned.prompt.ids) - len(planned.prompt.places)
    length = Length(text, planned.length - text, planned.n_labels)
    found.lengths.append(length)
    if length.total > found.context:
        found.too_long.add(sample.name)
