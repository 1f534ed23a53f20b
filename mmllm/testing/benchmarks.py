"""The contract of benchmarks: complete questions, right answers score 1, nothing scores 0, missing files say so."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmllm import registry
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Benchmark
from mmllm.evaluation.predictions import blinded
from mmllm.testing.rules import check, named, require, require_error, require_kind
from mmllm.types import Stored

DAMAGED = (b'[{"half":', b"{}", b"[]", b'[{"a": 1}]', b'{"data": [], "questions": [1], "annotations": 3}')
"""What an official file may hold that is no data set."""


def check_benchmark(maker: Callable[[Path], Benchmark], *, folder_is_the_data: bool = False) -> None:
    """Hold a benchmark to its contract: ``check_benchmark(opened)``, where ``opened(folder)`` writes a small one there.

    Questions must be complete: a name of their own, one turn of the user, as many placeholders as items, and items that
    are there. The reference itself must score 1, nothing said 0. Files it says it reads must be there, be all that it
    reads and be required: a missing or damaged one is an MmllmError that names it. A missing folder says what to fetch
    and where to put it. The prompt must be a setting, and asking blind take media and their places away.

    Args:
        maker: writes a few questions in the data set's own form, media included, into an existing, empty folder and
            opens it.
        folder_is_the_data: its questions are whatever files a folder holds, so that no single one is required.

    Raises:
        AssertionError: it breaks a rule; the text says which, and how to mend it.
    """
    subject = Subject(maker, folder_is_the_data)
    with subject.opened() as (benchmark, _):
        require_kind(benchmark, Benchmark)
        check(named(benchmark), RULES, subject)


@dataclass(frozen=True)
class Subject:
    """A benchmark under test; rules that damage its files open one of their own."""

    maker: Callable[[Path], Benchmark]
    folder_is_the_data: bool

    @contextmanager
    def opened(self) -> Iterator[tuple[Benchmark, Path]]:
        """(benchmark, its folder), for a while."""
        with tempfile.TemporaryDirectory() as folder:
            yield self.maker(Path(folder)), Path(folder)


def file_of(item: Path | Stored) -> Path | None:
    """The file of an item, which may end in a node or a segment of it; None for one that a table holds."""
    if isinstance(item, Stored):
        return None
    return item if item.is_file() else Path(str(item).rpartition("#")[0])


def is_there(item: Path | Stored) -> bool:
    """Whether an item can be had."""
    file = file_of(item)
    return bool(item.load()) if isinstance(item, Stored) else file is not None and file.is_file()


def right_answer(reference: Any) -> str:
    """What a perfect model says: the most frequent answer, or the box in hundredths."""
    if isinstance(reference[0], float):
        return "[" + ",".join(f"{100 * number:.0f}" for number in reference) + "]"
    return Counter(reference).most_common(1)[0][0]


def says_what_it_is(subject: Subject) -> None:
    """It has a name, which the registry knows it by, a metric, and in ``fetch`` sentences on how to get its files.

    Mend: set ``name``, ``metric`` and ``fetch``: what to fetch, from where, and where to put it.
    """
    with subject.opened() as (benchmark, _):
        require(
            bool(benchmark.name) and bool(benchmark.metric), f"name {benchmark.name!r}, metric {benchmark.metric!r}"
        )
        if benchmark.name in registry.table("benchmarks"):
            known = registry.load("benchmarks", benchmark.name)
            require(known is type(benchmark), f"the registry's {benchmark.name} is {known}")
        fetch = benchmark.fetch
        require(fetch.endswith((".", ").")) and len(fetch) > 40, f"fetch is {fetch!r}")


def has_complete_questions(subject: Subject) -> None:
    """Each question has a name of its own, one turn of the user with its text, and an item for each placeholder.

    Mend: make them with ``self.question(...)``, from an identity that no other question has.
    """
    with subject.opened() as (benchmark, _):
        require(len(benchmark) >= 2, f"{len(benchmark)} questions; write two at least")
        questions = [benchmark[index] for index in range(len(benchmark))]
        names = [question.sample.name for question in questions]
        require(len(set(names)) == len(names), f"names that stand twice: {names}")
        for question in questions:
            sample = question.sample
            require(
                sample.name.startswith(f"{benchmark.name}:"), f"{sample.name} does not begin with {benchmark.name}:"
            )
            require([message.role for message in sample.messages] == ["user"], f"{sample.name}: {sample.messages}")
            text = sample.messages[0].text
            inside = benchmark.interleaved or question.text in text
            require(inside, f"{sample.name}: {question.text!r} is not in {text!r}")
            require(bool(sample.media), f"{sample.name} has no media")
            for key, items in sample.media.items():
                count = text.count(f"<{key}>")
                require(count == len(items) >= 1, f"{sample.name}: {count} times <{key}> for {len(items)} items")
                missing = [item for item in items if not is_there(item)]
                require(not missing, f"{sample.name}: there is no {missing}")


def scores_answers(subject: Subject) -> None:
    """The right answer scores 1, blanks around it do not matter; nothing is unparsed and scores 0, as does nonsense.

    Mend: compare after ``strip()``; an answer that ``parsed`` refuses scores 0 and stays in the denominator.
    """
    with subject.opened() as (benchmark, _):
        for index in range(len(benchmark)):
            question = benchmark[index]
            right = right_answer(question.reference)
            require(benchmark.graded(right, question)[1], f"{right!r} is unparsed")
            for said, score in (
                (right, 1.0), (f" {right}\n", 1.0), ("", 0.0), ("  \n", 0.0), ("quite something else", 0.0)
            ):  # fmt: skip
                found = benchmark.graded(said, question)[0]
                require(found == score, f"{said!r} scores {found} against {question.reference}, expected {score}")
            for nothing in ("", "  \n"):
                require(not benchmark.graded(nothing, question)[1], f"{nothing!r} counts as parsed")


def names_its_files(subject: Subject) -> None:
    """``files`` are all that questions and references are read from, and are there; their digests stand by the score.

    Mend: list every file that ``__init__`` opens.
    """
    with subject.opened() as (benchmark, _):
        missing = [path for path in benchmark.files if not path.is_file()]
        require(bool(benchmark.files) and not missing, f"files {benchmark.files}, of which {missing} are missing")


def says_what_to_fetch(subject: Subject) -> None:
    """A ``path`` that is not there is an MmllmError with the path and ``fetch``.

    Mend: open files with ``self.require`` or ``self.read_json``.
    """
    with subject.opened() as (benchmark, folder):
        kind: Callable[..., Any] = type(benchmark)
        missing = str(folder / "nowhere")
        require_error(MmllmError, lambda: kind(path=missing), "a missing path", missing, benchmark.fetch)


def requires_each_file(subject: Subject) -> None:
    """Without one of its files, or with a damaged one, it is not opened: an MmllmError, which names a missing file.

    Mend: read each with ``self.read_json`` and ``self.rows(..., fields)``, in ``__init__``.
    """
    if subject.folder_is_the_data:
        return
    with subject.opened() as (benchmark, folder):
        kind: Callable[..., Any] = type(benchmark)
        for file in benchmark.files:
            content = file.read_bytes()
            file.unlink()
            require_error(MmllmError, lambda: kind(path=str(folder)), f"without {file.name}", file.name)
            for damage in DAMAGED:
                file.write_bytes(damage)
                require_error(MmllmError, lambda: kind(path=str(folder)), f"with {damage!r} in {file.name}")
            file.write_bytes(content)
        require(len(kind(path=str(folder))) == len(benchmark), "opened again, it has another number of questions")


def stops_at_a_missing_item(subject: Subject) -> None:
    """A question whose media file is missing is an MmllmError that names the file: no question is left out silently.

    Mend: make questions with ``self.question(...)``, which looks.
    """
    with subject.opened() as (benchmark, _):
        file = file_of(next(iter(benchmark[0].sample.media.values()))[0])
        if file is None:  # held by a table, which is one of its files
            return
        file.unlink()
        require_error(MmllmError, lambda: benchmark[0], f"without {file.name}", file.name)


def has_a_prompt_to_set(subject: Subject) -> None:
    """``prompt`` is what the user's turn is made from; one without ``{question}`` or the placeholder is an MmllmError.

    Mend: take ``prompt`` in ``__init__``, hand it to ``super().__init__(prompt=prompt)``, ask with ``self.question``.
    """
    with subject.opened() as (benchmark, folder):
        kind: Callable[..., Any] = type(benchmark)
        media = " ".join(f"<{key}>" * len(items) for key, items in benchmark[0].sample.media.items())
        question = kind(path=str(folder), prompt=f"Look: {media} {{question}} {{now}}")[0]
        text = question.sample.messages[0].text
        require(text == f"Look: {media} {question.text} {{now}}", f"asked is {text!r}")
        require_error(MmllmError, lambda: kind(path=str(folder), prompt="What?"), "no {question} in it", "question")
        if benchmark.interleaved:
            return
        key = media.split(">")[0]
        require_error(MmllmError, lambda: kind(path=str(folder), prompt="{question}")[0], "no placeholder in it", key)


def can_be_asked_blind(subject: Subject) -> None:
    """Asked blind, media and their places are gone, and all other text stays: the text-only baseline.

    Mend: write placeholders as ``<image>``, alone or with a line of their own.
    """
    with subject.opened() as (benchmark, _):
        question = benchmark[0]
        blind = blinded(question)
        require(not blind.sample.media, f"media {blind.sample.media}")
        text, found = question.sample.messages[0].text, blind.sample.messages[0].text
        for key in question.sample.media:
            text = text.replace(f"<{key}>\n", "").replace(f"<{key}>", "")
            require(f"<{key}>" not in found, f"<{key}> stays in {found!r}")
        inside = benchmark.interleaved or question.text in text
        require(found == text and inside, f"asked is {found!r}, expected {text!r}")


RULES = (
    says_what_it_is,
    has_complete_questions,
    scores_answers,
    names_its_files,
    says_what_to_fetch,
    requires_each_file,
    stops_at_a_missing_item,
    has_a_prompt_to_set,
    can_be_asked_blind,
)
