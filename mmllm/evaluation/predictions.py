"""The answers of a run to a benchmark's questions, kept line by line: a killed evaluation goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.errors import SampleError
from mmllm.messages import placeholders
from mmllm.types import identity

if TYPE_CHECKING:
    from mmllm.evaluation.benchmarks.base import Benchmark, Question
    from mmllm.generation.generator import Encoded, Generator
    from mmllm.types import Sample


@dataclass(frozen=True)
class Prediction:
    """One line of ``predictions/<benchmark>.jsonl``."""

    name: str
    """Name of the sample, unique in its benchmark."""
    question: str
    """The bare question; the whole prompt is the benchmark's prompt around it."""
    prediction: str
    """The model's answer, stripped; empty where the question could not be asked."""
    references: Sequence[Any]
    score: float
    parsed: bool
    kind: str
    error: str | None
    """Why the question could not be asked (too long, unreadable picture); such a question counts and scores 0."""
    key: str
    """Digest of model, prompt, decoding and files; lines of another key are not this run's and are asked again."""
    media: Sequence[str] = ()
    """Size and time of change of each media file; a question whose files are others by now is asked again."""
    item: str = ""
    """Digest of what the question is about: questions about one item are not independent of each other."""


def predict(
    generator: Generator,
    benchmark: Benchmark,
    questions: Sequence[Question],
    path: Path,
    key: str,
    batch: int,
    max_new_tokens: int,
    advance: Callable[[int], None],
) -> list[Prediction]:
    """Ask what is not yet answered under this key, and score everything: predictions in the order of the questions.

    ``batch`` questions are answered at once; ``advance`` is told how many more are done. The file grows batch by batch
    and is put in order at the end. Scores are always computed anew, so a corrected metric needs no new answers.
    """
    # once, before anything is read: a file that changes meanwhile is asked about again next time
    media = {question.sample.name: _media(question) for question in questions}
    known = {name: one for name, one in kept(path, key).items() if list(one.media) == media.get(name, list(one.media))}
    todo = [question for question in questions if question.sample.name not in known]
    advance(len(questions) - len(todo))
    path.parent.mkdir(parents=True, exist_ok=True)
    # first: a line cut off by a kill would go on in the first one that is appended
    _rewrite(path, list(known.values()))
    with path.open("a", encoding="utf-8") as file:
        for some, answers in _answers(generator, todo, batch, max_new_tokens):
            for question, (text, error) in zip(some, answers, strict=True):
                done = _scored(benchmark, question, text, error, key, media)
                known[done.name] = done
                file.write(_line(done))
            file.flush()
            advance(len(some))
    predictions = [
        _scored(benchmark, question, line.prediction, line.error, key, media)
        for question in questions
        for line in [known[question.sample.name]]
    ]
    asked = {prediction.name for prediction in predictions}
    _rewrite(path, predictions + [other for name, other in known.items() if name not in asked])
    return predictions


def blinded(question: Question) -> Question:
    """The same question without its media: placeholders (and the line break after one) are taken out."""
    keys = list(question.sample.media)
    messages = [replace(message, text=placeholders.without(message, keys)) for message in question.sample.messages]
    return replace(question, sample=replace(question.sample, messages=tuple(messages), media={}))


def _answers(
    generator: Generator, questions: Sequence[Question], batch: int, max_new_tokens: int
) -> Iterator[tuple[Sequence[Question], list[tuple[str, str | None]]]]:
    """Batches of questions about the same media with (answer, error); the next is read while one is answered."""
    ordered = _by_media(questions)
    batches = [ordered[start : start + batch] for start in range(0, len(ordered), batch)]
    with ThreadPoolExecutor(max_workers=1) as loader:
        pending = [loader.submit(_encode_all, generator, some) for some in batches[:1]]
        for number, some in enumerate(batches):
            encoded = pending.pop().result()
            pending += [loader.submit(_encode_all, generator, later) for later in batches[number + 1 : number + 2]]
            fine = [one for one in encoded if not isinstance(one, SampleError)]
            texts = iter(generator.generate_encoded(fine, max_new_tokens))
            yield (
                some,
                [
                    ("", str(one)) if isinstance(one, SampleError) else (next(texts).text.strip(), None)
                    for one in encoded
                ],
            )


def _encode_all(generator: Generator, questions: Sequence[Question]) -> list[Encoded | SampleError]:
    return [_encode(generator, question.sample) for question in questions]


def _encode(generator: Generator, sample: Sample) -> Encoded | SampleError:
    try:
        return generator.encode(sample)
    except SampleError as error:
        return error  # recorded with the prediction: the question stays in the denominator


def _by_media(questions: Sequence[Question]) -> list[Question]:
    """The questions ordered so that those about the same media follow each other: these are then read once."""
    groups: dict[Hashable, list[Question]] = {}
    # longest first: what does not fit into memory fails in the first minute
    for question in sorted(questions, key=_length, reverse=True):
        groups.setdefault(item_of(question), []).append(question)
    return [question for group in groups.values() for question in group]


def item_of(question: Question) -> Hashable:
    """What tells apart what questions are about: their media, or their name; a picture that is no file is like itself
    only."""
    media = question.sample.media
    return (
        tuple((key, identity(item) or id(item)) for key in sorted(media) for item in media[key]) or question.sample.name
    )


def _length(question: Question) -> int:
    return sum(len(message.text) for message in question.sample.messages)


def _scored(
    benchmark: Benchmark, question: Question, text: str, error: str | None, key: str, media: Mapping[str, Sequence[str]]
) -> Prediction:
    score, parsed = benchmark.graded(text, question)
    return Prediction(
        name=question.sample.name,
        question=question.text,
        prediction=text,
        references=list(question.reference),
        score=score,
        parsed=parsed,
        kind=question.kind,
        error=error,
        key=key,
        media=media[question.sample.name],
        item=digest_of_item(question),
    )


def digest_of_item(question: Question) -> str:
    """Short digest of ``item_of``, the same in every process; of media that are no files, the question's own."""
    shown = item_of(question)
    named = shown if isinstance(shown, str) or all(isinstance(one, Path) for one in _items(question)) else ""
    return hashlib.sha256(repr(named or question.sample.name).encode()).hexdigest()[:16]


def _items(question: Question) -> list[Any]:
    return [item for items in question.sample.media.values() for item in items]


def _media(question: Question) -> list[str]:
    """Size and time of change of each file of its media; empty text where there is no such file."""
    # not the content: thousands of kept answers would have all their pictures and videos read again
    return [_stamp(item) for items in question.sample.media.values() for item in items if isinstance(item, Path)]


def _stamp(path: Path) -> str:
    # a node or a segment may follow the name of its file, as in cora.npz#17
    file = path if path.exists() else Path(str(path).rpartition("#")[0])
    try:
        found = file.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def _line(prediction: Prediction) -> str:
    return json.dumps(asdict(prediction), ensure_ascii=False) + "\n"


def kept(path: Path, key: str, failed: bool = False) -> dict[str, Prediction]:
    """Predictions of an earlier evaluation under the same key, by name.

    Left out, so asked again: a line cut off by a kill, and, unless ``failed``, what could not be asked (its media may
    be fixed by now).
    """
    if not path.is_file():
        return {}
    found = {}
    # not splitlines: answers are written unescaped and may hold other line ends, such as U+2028
    for line in path.read_text(encoding="utf-8").split("\n"):
        row = _whole(line)
        if row is not None and row["key"] == key and (failed or row["error"] is None):
            found[row["name"]] = Prediction(**row)
    return found


def _whole(line: str) -> Mapping[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    known = Prediction.__dataclass_fields__.keys()
    # `item` came later: lines without it are as good
    return row if isinstance(row, dict) and known - {"item"} <= row.keys() <= known else None


def _rewrite(path: Path, predictions: Sequence[Prediction]) -> None:
    """Replace the file in one step, so that a kill leaves the old one or the new one."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.writelines(_line(prediction) for prediction in predictions)
    os.replace(new, path)
