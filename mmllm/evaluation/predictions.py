"""The answers of a run to a benchmark's questions, kept line by line: a killed evaluation goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.errors import MediaError
from mmllm.evaluation.asking import Said, ask, item_of
from mmllm.features.contents import ContentDigests
from mmllm.messages import placeholders
from mmllm.processors.content import Content

if TYPE_CHECKING:
    from mmllm.evaluation.benchmarks.base import Benchmark, Question
    from mmllm.generation.generator import Generator


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
    """Digest of the content of each media file; a question whose files are others by now is asked again."""
    item: str = ""
    """Digest of what the question is about: questions about one item are not independent of each other."""
    confidence: float | None = None
    """Mean probability of the answer's tokens, or of the option taken among all; None: not known."""
    likelihoods: Sequence[float] = ()
    """Log likelihood of each option, where options are ranked by it."""


LATER = frozenset({"item", "confidence", "likelihoods"})
"""Fields that older lines lack and are as good without."""


def predict(
    generator: Generator,
    benchmark: Benchmark,
    questions: Sequence[Question],
    path: Path,
    key: str,
    batch: int,
    max_new_tokens: int,
    advance: Callable[[int], None],
    shown_as: Callable[[Question], Question],
) -> list[Prediction]:
    """Ask what is not yet answered under this key, and score everything: predictions in the order of the questions.

    ``batch`` questions are answered at once; ``advance`` is told how many more are done; ``shown_as`` makes of a
    question what the model is shown. The file grows batch by batch and is put in order at the end. Scores are always
    computed anew, so a corrected metric needs no new answers.
    """
    shown = {question.sample.name: shown_as(question) for question in questions}
    # once, before anything is read: a file that changes meanwhile is asked about again next time
    media = _digests(path.parent / "media", shown)
    known = {name: one for name, one in kept(path, key).items() if list(one.media) == media.get(name, list(one.media))}
    todo = [question for question in questions if question.sample.name not in known]
    advance(len(questions) - len(todo))
    path.parent.mkdir(parents=True, exist_ok=True)
    # first: a line cut off by a kill would go on in the first one that is appended
    _rewrite(path, list(known.values()))
    with path.open("a", encoding="utf-8") as file:
        asked = [shown[question.sample.name] for question in todo]
        plain = {question.sample.name: question for question in todo}
        for some, answers in ask(generator, benchmark, asked, batch, max_new_tokens):
            for question, said in zip(some, answers, strict=True):
                done = _scored(benchmark, plain[question.sample.name], said, key, media)
                known[done.name] = done
                file.write(_line(done))
            file.flush()
            advance(len(some))
    predictions = [
        _scored(benchmark, question, _said(known[question.sample.name]), key, media) for question in questions
    ]
    names = {prediction.name for prediction in predictions}
    _rewrite(path, predictions + [other for name, other in known.items() if name not in names])
    return predictions


def blinded(question: Question) -> Question:
    """The same question without its media: placeholders (and the line break after one) are taken out."""
    keys = list(question.sample.media)
    messages = [replace(message, text=placeholders.without(message, keys)) for message in question.sample.messages]
    return replace(question, sample=replace(question.sample, messages=tuple(messages), media={}))


def _said(line: Prediction) -> Said:
    return Said(line.prediction, line.error, line.confidence, tuple(line.likelihoods))


def _scored(
    benchmark: Benchmark, question: Question, said: Said, key: str, media: Mapping[str, Sequence[str]]
) -> Prediction:
    score, parsed = benchmark.graded(said.text, question)
    return Prediction(
        name=question.sample.name,
        question=question.text,
        prediction=said.text,
        references=list(question.reference),
        score=score,
        parsed=parsed,
        kind=question.kind,
        error=said.error,
        key=key,
        media=media[question.sample.name],
        item=digest_of_item(question),
        confidence=said.confidence,
        likelihoods=said.likelihoods,
    )


def digest_of_item(question: Question) -> str:
    """Short digest of ``item_of``, the same in every process; of media that are no files, the question's own."""
    shown = item_of(question.sample)
    named = shown if isinstance(shown, str) or all(isinstance(one, Path) for one in _items(question)) else ""
    return hashlib.sha256(repr(named or question.sample.name).encode()).hexdigest()[:16]


def _items(question: Question) -> list[Any]:
    return [item for items in question.sample.media.values() for item in items]


def _digests(folder: Path, questions: Mapping[str, Question]) -> dict[str, list[str]]:
    """Name -> digest of each file of its media; empty text where there is no such file.

    ``folder`` remembers those of files that have not changed since, so that pictures and clips are not read again.
    """
    digests = ContentDigests(folder)
    found = {
        name: [_digest(digests, item) for item in _items(question) if isinstance(item, Path)]
        for name, question in questions.items()
    }
    digests.commit()
    return found


def _digest(digests: ContentDigests, path: Path) -> str:
    # a node or a segment may follow the name of its file, as in cora.npz#17
    file = path if path.exists() else Path(str(path).rpartition("#")[0])
    try:
        return digests.of(Content((file,))).key.hex()[:32]
    except MediaError:
        return ""


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
    return row if isinstance(row, dict) and known - LATER <= row.keys() <= known else None


def _rewrite(path: Path, predictions: Sequence[Prediction]) -> None:
    """Replace the file in one step, so that a kill leaves the old one or the new one."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.writelines(_line(prediction) for prediction in predictions)
    os.replace(new, path)
