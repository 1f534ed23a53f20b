"""The base of every benchmark: questions with references and the rule that scores an answer. ``run`` walks over it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any, ClassVar

from mmllm.errors import MmllmError
from mmllm.evaluation.metrics.boxes import Box
from mmllm.evaluation.metrics.table import METRICS
from mmllm.evaluation.metrics.text import ANLS_VARIANTS
from mmllm.evaluation.references import texts_of
from mmllm.messages.placeholders import escape
from mmllm.types import Message, Sample

QUESTION_ONLY = "<image>\n{question}"
SHORT_ANSWER = "<image>\n{question}\nAnswer the question using a single word or phrase."

GENERATED, TEXTS, PER_TOKEN, LETTERS = CHOICES = (
    "generated",
    "likelihood",
    "likelihood_per_token",
    "likelihood_letter",
)
"""How an option is taken: the answer is written and read; or the likeliest text of an option, by the sum over its
tokens or their mean; or the likeliest letter."""
CATEGORY_SEPARATOR = ": "
"""Text between a kind and a part of it."""


@dataclass(frozen=True)
class Question:
    """One question of a benchmark: the conversation to continue and what a right answer is."""

    sample: Sample
    text: str
    """The bare question, as the data set has it."""
    reference: tuple[str, ...] | Box
    """The accepted answers (one per annotator where there are several), or the box."""
    kind: str = ""
    """The group this question is also reported under ("yes/no", "causal: why": then also under "causal"); or empty."""
    options: tuple[str, ...] = ()
    """Texts of the lettered options from A, where there are some."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of its row that the score of the whole set needs: which picture, which roll of the options."""


@dataclass(frozen=True)
class Answered:
    """A question with what was said and how that scores."""

    question: Question
    prediction: str
    score: float


class Benchmark(ABC):
    """A test set: ``len``, questions by index, and how an answer scores.

    ``prompt`` is the user's turn, with ``{question}`` where the question goes and ``<image>`` where the picture goes
    (``<video>`` the clip: the placeholder is the key of the connector in the recipe).
    """

    name: ClassVar[str]
    """Name in the registry; names of samples start with it."""
    metric: str
    """Name of the metric, one of :data:`METRICS` unless ``score`` is overridden."""
    fetch: ClassVar[str]
    """One sentence: what to fetch, from where, and where to put it; ends the errors about missing files."""
    variant: str = ""
    """Name of the metric's definition, where it has several."""
    interleaved: ClassVar[bool] = False
    """Whether media have their places inside the questions, whose bare text names them; prompts then need none."""
    choice: str = GENERATED
    """How an option is taken, of :data:`CHOICES`."""

    def __init__(
        self, *, prompt: str, variant: str = "", variants: Sequence[str] = (), choice: str = GENERATED
    ) -> None:
        if choice not in CHOICES:
            raise MmllmError(f"{self.name}: choice is {choice!r}; known: {', '.join(CHOICES)}.")
        self.choice = choice
        if variants and variant not in variants:
            known = ", ".join(variants)
            raise MmllmError(f"{self.name} has no variant {variant!r} of {self.metric}; there are {known}.")
        if "{question}" not in prompt:
            raise MmllmError(f"The prompt of {self.name} has no {{question}} in it: {prompt!r}.")
        self.prompt = prompt
        self.variant = variant or self.variant

    @property
    @abstractmethod
    def files(self) -> Sequence[Path]:
        """The files questions and references are read from; their digests stand beside the score."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of questions."""

    @abstractmethod
    def __getitem__(self, index: int) -> Question:
        """The question at an index; raises MmllmError where a file of its media is missing."""

    def score(self, prediction: str, reference: Any) -> float:
        """Value of ``metric`` for one answer, in 0..1; an unparsed answer scores 0."""
        return METRICS[self.metric](prediction, reference, self.variant) if self.parsed(prediction) else 0.0

    def parsed(self, prediction: str) -> bool:
        """Whether the prediction holds an answer at all. Unparsed ones stay in the denominator."""
        return bool(prediction.strip())

    def graded(self, prediction: str, question: Question) -> tuple[float, bool]:
        """Score of a prediction, and whether it holds an answer: ``score`` and ``parsed``, where neither needs to know
        more of the question than its reference."""
        parsed = self.parsed(prediction)
        return (self.score(prediction, question.reference) if parsed else 0.0), parsed

    @property
    def ranks_options(self) -> bool:
        """Whether the model ranks the options by likelihood and writes nothing."""
        return self.choice != GENERATED

    @property
    def lists_options(self) -> bool:
        """Whether the options stand below the question: not where their texts are ranked."""
        return self.choice in (GENERATED, LETTERS)

    def candidates(self, question: Question) -> Sequence[str]:
        """The answers that are ranked, one an option."""
        return ascii_uppercase[: len(question.options)] if self.choice == LETTERS else question.options

    def check_ranked(self, options: Sequence[str]) -> None:
        """MmllmError where options are to be ranked and cannot be."""
        if not self.ranks_options:
            return
        if not options:
            raise MmllmError(f"it has no options, and choice: {self.choice} ranks options")
        if self.choice != LETTERS and not all(options):
            raise MmllmError(f"its options' texts stand in the question; choice: {LETTERS} ranks their letters")

    def whole(self, answered: Sequence[Answered]) -> float | None:
        """The score of questions together, also of a part of them; None: it is the mean of their scores."""
        return None

    def units(self, answered: Sequence[Answered]) -> Sequence[float] | None:
        """Scores of groups of questions where the score is the mean of those; None: there are no groups."""
        return None

    def figures(self, answered: Sequence[Answered]) -> Mapping[str, float]:
        """Further figures of questions together, which stand beside the score; of ANLS the mean by its other variants,
        since harnesses differ in what a similarity of exactly one half is worth."""
        if self.metric != "anls":
            return {}
        others = [variant for variant in ANLS_VARIANTS if variant != (self.variant or ANLS_VARIANTS[0])]
        said = [one for one in answered if self.parsed(one.prediction)]
        return {
            f"anls_{variant}": sum(METRICS["anls"](one.prediction, one.question.reference, variant) for one in said)
            / len(answered)
            for variant in others
        }

    def box(self, prediction: str) -> Box | None:
        """The box that an answer names, where answers are boxes; None: it names none, or answers are something else."""
        return None

    def cluster(self, question: Question) -> Hashable | None:
        """What questions that are not independent have in common; None: the media they are about."""
        return None

    def question(
        self,
        identity: Any,
        text: str,
        media: Path | Mapping[str, tuple[Any, ...]],
        reference: tuple[str, ...] | Box,
        kind: str = "",
        options: Sequence[str] = (),
    ) -> Question:
        """A question about media in this benchmark's prompt.

        ``media`` is a picture, or the placeholder -> items in order of their placeholders; a path may end in a node
        or a segment (``cora.npz#17``). Raises MmllmError where a file is missing or the prompt has no place for it.
        """
        items = {"image": (media,)} if isinstance(media, Path) else dict(media)
        # not format: a question may hold braces
        message = Message("user", self.turn(text, items))
        for key, found in items.items():
            for item in found:
                self._there(identity, key, item)
            if f"<{key}>" not in message.text:
                raise MmllmError(f"The prompt of {self.name} has no <{key}> in it: {self.prompt!r}.")
        return Question(Sample(f"{self.name}:{identity}", (message,), items), text, reference, kind, tuple(options))

    def turn(self, text: str, media: Mapping[str, Sequence[Any]]) -> str:
        """The user's turn that asks ``text`` about the media; placeholders typed in the text are text."""
        return self.prompt.replace("{question}", escape(text, [key for key in media if f"<{key}>" in self.prompt]))

    def _there(self, identity: Any, key: str, item: Any) -> None:
        """MmllmError where an item is the path of a file that is missing; what follows its last # is no part of it."""
        if not isinstance(item, Path) or item.is_file() or Path(str(item).rpartition("#")[0]).is_file():
            return
        what = "picture" if key == "image" else key
        raise MmllmError(f"{self.name}, question {identity}: the {what} {item} is missing. {self.fetch}")

    def require(self, path: Path) -> Path:
        """The path itself where it exists; else MmllmError saying what is missing and how to get it."""
        if not path.exists():
            raise MmllmError(f"{self.name} needs {path}, which is missing. {self.fetch}")
        return path

    def read_json(self, path: Path) -> Any:
        """The content of a required JSON file; MmllmError where it is missing or damaged."""
        try:
            return json.loads(self.require(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise MmllmError(f"{self.name}: {path} is not JSON ({error}). {self.fetch}") from error

    def answers(self, found: Any, where: str) -> tuple[str, ...]:
        """What :func:`texts_of` reads; its error with the benchmark, ``where`` and what to fetch."""
        try:
            return texts_of(found)
        except MmllmError as error:
            raise MmllmError(f"{self.name}: {where}: {error}. {self.fetch}") from error

    def rows(
        self, content: Any, path: Path, key: str | None, fields: Sequence[str], answers: str = ""
    ) -> list[Mapping[str, Any]]:
        """The list of questions in a JSON file, under a key or at its top, each with these fields; else MmllmError.

        ``answers`` is the field that holds what :func:`texts_of` reads.
        """
        found = content.get(key) if key and isinstance(content, dict) else content
        where = f'a list under "{key}"' if key else "a list"
        if not isinstance(found, list) or not found:
            raise MmllmError(f"{self.name}: {path} does not hold {where} of questions. {self.fetch}")
        for number, row in enumerate(found):
            missing = [field for field in fields if not isinstance(row, dict) or field not in row]
            if missing:
                raise MmllmError(f"{self.name}: entry {number} of {path} has no {', '.join(missing)}. {self.fetch}")
            if answers:
                self.answers(row[answers], f"entry {number} of {path}")
        return found
