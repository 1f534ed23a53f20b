"""Rules of processors, which read an encoder's media on the CPU."""

from __future__ import annotations

import io
import pickle
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mmllm.encoders.base import Encoder
from mmllm.errors import MediaError
from mmllm.processors.base import Processor
from mmllm.testing.rules import require, require_error
from mmllm.types import Features

MAX_PICKLED = 100_000
"""Bytes; settings have about a thousand, and one goes to every process that reads."""

UNREADABLE: dict[str, bytes] = {"document": b"\xff\xfe not text"}
"""Modality -> bytes that are no item of it; any text will do for the others."""


@dataclass(frozen=True)
class Subject:
    """An encoder under test and three media items for it."""

    maker: Callable[[], Encoder]
    encoder: Encoder
    media: Sequence[Any]

    @property
    def processor(self) -> Processor:
        """Of the encoder."""
        return self.encoder.processor

    def read(self) -> list[dict[str, Tensor]]:
        """The items, read."""
        return [self.processor.read(item) for item in self.media]

    def features(self, encoder: Encoder | None = None) -> Features:
        """Of the three items in one batch."""
        chosen = self.encoder if encoder is None else encoder
        return chosen(**chosen.processor.collate([chosen.processor.read(item) for item in self.media]))


def measures_what_it_reads(subject: Subject) -> None:
    """What ``measure`` finds without decoding gives the grid and the times of what ``read`` gives.

    The loader plans with the one and fills with the other. Mend: derive both from the same header; leave ``measure``
    out, then it reads.
    """
    processor = subject.processor
    for number, media in enumerate(subject.media):
        read, measured = processor.read(media), processor.measure(media)
        grid, times = processor.grid(read), processor.seconds(read)
        require(grid == processor.grid(measured), f"item {number}: {grid} read, {processor.grid(measured)} measured")
        require(times == processor.seconds(measured), f"item {number}: times {times} read, other ones measured")
        fixed = processor.fixed_grid()
        require(fixed in (None, grid), f"item {number} has a grid of {grid}, but fixed_grid is {fixed}")
        require(times is None or len(times) == grid[0], f"item {number}: times {times} for a grid of {grid}")


def reads_in_another_process(subject: Subject) -> None:
    """A pickled processor is small and reads the same, also after it has read: no weights, workers, tables or caches.

    Mend: keep settings on the processor and weights on the encoder; open workers and caches where they are first used.
    """
    held = [name for name, value in vars(subject.processor).items() if isinstance(value, nn.Module)]
    require(not held, f"the processor holds modules: {held}")
    items = subject.read()
    packed = pickle.dumps(subject.processor)
    require(len(packed) < MAX_PICKLED, f"pickled it has {len(packed)} bytes, at most {MAX_PICKLED} are fine")
    copied = pickle.loads(packed)
    for media, item in zip(subject.media, items, strict=True):
        again = copied.read(media)
        require(again.keys() == item.keys(), f"pickled, it reads {sorted(again)} instead of {sorted(item)}")
        require(all(torch.equal(again[name], item[name]) for name in item), "pickled, it reads other values")


def takes_a_blank_item(subject: Subject) -> None:
    """``processor.blank()`` is an item like any: same names, axes and dtypes, and the encoder takes it.

    A rank without media runs it so that it does not hang the others. Mend: build it from the same shapes as ``read``.
    """
    read, blank = subject.read()[0], subject.processor.blank()
    kinds = [{name: (value.dim(), value.dtype) for name, value in item.items()} for item in (read, blank)]
    require(kinds[0] == kinds[1], f"an item is {kinds[0]}, the blank one {kinds[1]}")
    grid, fixed = subject.processor.grid(blank), subject.processor.fixed_grid()
    require(fixed in (None, grid), f"its grid is {grid}, but fixed_grid is {fixed}")
    together = subject.encoder(**subject.processor.collate([read, blank])).concatenated()
    require(together.isfinite().all(), "beside it features are not finite")


def reads_paths_bytes_and_pictures_alike(subject: Subject) -> None:
    """A picture gives the same tensors as a path, as text of a path, as bytes and opened.

    Mend: derive from ``mmllm.processors.image.ImageProcessor``, or open media with its ``open_image``.
    """
    if subject.encoder.modality != "image":
        return
    picture = Image.linear_gradient("L").resize((50, 40)).convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        path.write_bytes(buffer.getvalue())
        first, *others = (subject.processor.read(media) for media in (picture, path, str(path), buffer.getvalue()))
    for what, other in zip(("a path", "text of a path", "bytes"), others, strict=True):
        require(all(torch.equal(first[name], other[name]) for name in first), f"{what} and an opened picture differ")


def refuses_what_it_cannot_read(subject: Subject) -> None:
    """A missing file, damaged bytes and no bytes at all are each a MediaError.

    A stage counts, names and skips such a sample; any other error stops it. Mend: catch what your decoder raises, and
    raise ``mmllm.errors.MediaError`` with one sentence from it.
    """
    damaged = UNREADABLE.get(subject.encoder.modality, b"not a picture")
    with tempfile.TemporaryDirectory() as folder:
        for media in (Path(folder, "missing.png"), damaged, b""):
            require_error(MediaError, partial(subject.processor.read, media), f"reading {media!r}")


RULES = (
    measures_what_it_reads,
    reads_in_another_process,
    takes_a_blank_item,
    reads_paths_bytes_and_pictures_alike,
    refuses_what_it_cannot_read,
)
