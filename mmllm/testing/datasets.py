"""The contract of datasets: complete samples, the same each time, from any thread or process."""

from __future__ import annotations

import io
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import getdoc, signature
from pathlib import Path
from threading import Thread
from typing import Any

from PIL import Image

from mmllm.datasets.base import Dataset
from mmllm.errors import MmllmError
from mmllm.testing.rules import check, named, require, require_error, require_kind
from mmllm.types import Sample


def check_dataset(maker: Callable[[Path], Dataset]) -> None:
    """Hold a dataset to its contract: ``check_dataset(opened)``, where ``opened(folder)`` writes a small one there.

    Samples must be complete: a name of their own that begins with the dataset's, an answer of the assistant at the end,
    as many placeholders as items, and items that are there. Reading again must give the same, also from other threads
    and in another process; an index beyond is an IndexError. A missing folder is one sentence that names it, and the
    class says what it is and takes ``path``.

    Args:
        maker: writes a dataset of a few samples, media included, into an existing, empty folder and opens it.

    Raises:
        AssertionError: it breaks a rule; the text says which, and how to mend it.
    """
    with tempfile.TemporaryDirectory() as folder:
        dataset = maker(Path(folder))
        require_kind(dataset, Dataset)
        check(named(dataset), RULES, Subject(dataset, Path(folder)))


@dataclass(frozen=True)
class Subject:
    """A dataset under test and the folder it was written into."""

    dataset: Dataset
    folder: Path

    def samples(self) -> list[Sample]:
        """All of them, read now."""
        return [self.dataset[index] for index in range(len(self.dataset))]


def has_complete_samples(subject: Subject) -> None:
    """Samples have names of their own, end with the assistant, and hold an item for each placeholder, which is there.

    Mend: call them ``<name of the dataset>:<line or id>``; write ``<image>`` where an item belongs, once for each.
    """
    dataset, samples = subject.dataset, subject.samples()
    require(bool(samples) and bool(dataset.name), f"{len(samples)} samples of {dataset.name!r}")
    names = [sample.name for sample in samples]
    require(len(set(names)) == len(names), f"names that stand twice: {names}")
    for sample in samples:
        require(isinstance(sample, Sample), f"{sample!r} is no Sample")
        require(sample.name.startswith(dataset.name), f"{sample.name} does not begin with {dataset.name}")
        last = sample.messages[-1]
        require(last.role == "assistant" and bool(last.text), f"{sample.name} ends with {last}")
        text = "".join(message.text for message in sample.messages)
        for key, items in sample.media.items():
            count = text.count(f"<{key}>")
            require(count == len(items) > 0, f"{sample.name}: {count} times <{key}> for {len(items)} items")
            for item in items:
                _there(sample.name, key, item)


def reads_the_same_again(subject: Subject) -> None:
    """Each sample is the same when it is read again; indices -1 and len are IndexErrors.

    A run is resumed by the number of a sample. Mend: draw nothing while reading; check the index.
    """
    require(subject.samples() == subject.samples(), "read again, samples differ")
    for index in (-1, len(subject.dataset)):
        require_error(IndexError, partial(subject.dataset.__getitem__, index), f"index {index}")


def may_be_shared(subject: Subject) -> None:
    """Threads may read it side by side, and a pickled copy reads the same.

    Mend: no open file whose position reads share; seek and read under a lock, or open it for each read.
    """
    expected = subject.samples()
    found: list[list[Sample]] = []
    threads = [Thread(target=lambda: found.append(subject.samples())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    require(found == [expected] * 4, "read by four threads at once, samples differ")
    copied = pickle.loads(pickle.dumps(subject.dataset))
    require([copied[index] for index in range(len(copied))] == expected, "pickled, it reads other samples")


def says_that_its_folder_is_missing(subject: Subject) -> None:
    """A ``path`` that is not there is one sentence, an MmllmError that says "there is no" and the path.

    Mend: look for its files in ``__init__``.
    """
    missing = subject.folder / "nowhere"
    kind: Callable[..., Any] = type(subject.dataset)
    error = require_error(MmllmError, lambda: kind(path=str(missing)), "a missing path", "there is no", str(missing))
    require("\n" not in str(error), f"the error is more than one line: {error}")


def says_what_it_is(subject: Subject) -> None:
    """Its class has a docstring, which ``mmllm ls`` shows, and an argument ``path``.

    Mend: one line that says what it reads, from which files.
    """
    kind = type(subject.dataset)
    require(bool(kind.__doc__) and bool(getdoc(kind)), "no docstring")
    require("path" in signature(kind).parameters, f"its arguments are {list(signature(kind).parameters)}")


def _there(name: str, key: str, item: Any) -> None:
    """Require that an item can be read: a file, a part of one (``g.npz#17``), bytes or a picture."""
    if isinstance(item, str | Path):
        file = Path(item) if Path(item).is_file() else Path(str(item).rpartition("#")[0])
        require(file.is_file(), f"{name}: there is no {item}")
        if key != "image":
            return
    if isinstance(item, str | Path | bytes) and key == "image":
        with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
            image.load()


RULES = (
    has_complete_samples,
    reads_the_same_again,
    may_be_shared,
    says_that_its_folder_is_missing,
    says_what_it_is,
)
