"""Your own questions: a file of rows, a metric by its name, no code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from string import ascii_uppercase
from typing import Any, ClassVar

from mmllm.datasets.chat import Chat
from mmllm.datasets.clips import lettered
from mmllm.datasets.containers.json_rows import unpacked
from mmllm.datasets.containers.opening import open_rows
from mmllm.datasets.row_media import RowMedia, names_media
from mmllm.errors import MediaError, MmllmError, SampleError, shortened
from mmllm.evaluation.benchmarks.base import Answered, Benchmark, Question
from mmllm.evaluation.benchmarks.multiple_choice import CHOICE, graded
from mmllm.evaluation.benchmarks.options import listed, right
from mmllm.evaluation.metrics.boxes import Box, box_hit, parse_box
from mmllm.evaluation.metrics.fields import checked, counts_of_set, record_of
from mmllm.evaluation.metrics.table import FIELD_F1, METRIC_VARIANTS, METRICS
from mmllm.evaluation.metrics.wer import word_error_rate
from mmllm.evaluation.references import texts_of
from mmllm.messages import placeholders
from mmllm.messages.placeholders import escape
from mmllm.modalities import MODALITIES
from mmllm.registry import nearest
from mmllm.types import Message, Sample

FIELDS = ("question", "answer", "answers", "options", "id", "kind")
"""Fields of a row that are no media."""
ALIASES = {"choices": "options", "question_id": "id", "questionId": "id", "label": "answer", "query": "question"}
"""Other usual names of them, taken where the row has none by our name and ``columns`` says nothing else."""
BOX = "iou@0.5"


class Qa(Benchmark):
    """Questions of any file that ``data:`` reads, and a metric by name.

    A row is ``{"question": "...", "answer": "..." or ["...", ...], "image": "a.png" or [...]}``; ``answers`` means the
    same as ``answer``, ``options`` are what to choose from, ``id`` and ``kind`` may be there. The media's field is
    their modality or a placeholder of the prompt; ``columns`` names other fields. Rows of conversations (LLaVA,
    ShareGPT, OpenAI's messages) are asked turn by turn, each with what was said before it. A field that holds media and
    is not read is refused: a misspelt one would leave its picture out.
    """

    name: ClassVar[str] = "qa"
    fetch: ClassVar[str] = 'A row is {"question": "...", "answer": "...", "image": "a.png"}, paths beside the file.'

    def __init__(
        self,
        *,
        path: str,
        metric: str = "exact_match",
        prompt: str | None = None,
        variant: str = "",
        split: str | None = None,
        config: str | None = None,
        media: str | None = None,
        columns: dict[str, str] | None = None,
        ignore: Sequence[str] = (),
        box_scale: float = 1.0,
        choice: str = "generated",
    ) -> None:
        """Open the rows and look at each.

        Args:
            path: a file, a pattern, a folder, or ``hf://datasets/...``, as ``data:`` has it; a folder may hold
                ``questions.json``.
            metric: exact_match, anls, relaxed_accuracy, vqa_accuracy, contains, token_f1, yes_no, wer (lower is
                better), field_f1 (an object of fields and line items), accuracy (lettered options) or iou@0.5 (a box).
            prompt: the user's turn, with ``{question}`` and the placeholders; without one, a placeholder for each item
                of a row stands in front of the question.
            variant: of the metric, where it has several.
            split: of a dataset that has several.
            config: of a dataset that has several.
            media: folder that paths of media start from; default: the one the rows lie in.
            columns: question, answer, options, id, kind or a placeholder -> its name in the rows.
            ignore: fields that hold media and are not to be read.
            box_scale: of the boxes that answers and predictions name, under iou@0.5: 1, 100 or 1000.
            choice: generated; or ranked by the model: likelihood (of the options' texts, which then do not stand below
                the question), likelihood_per_token, likelihood_letter.
        """
        known = (*METRICS, CHOICE, BOX)
        if metric not in known:
            raise MmllmError(f"{self.name}: the metric {metric!r} is unknown; known: {', '.join(known)}.")
        if variant and variant not in METRIC_VARIANTS.get(metric, ()):
            variants = ", ".join(METRIC_VARIANTS.get(metric, ())) or "none"
            raise MmllmError(f"{self.name}: {metric} has no variant {variant!r}; its variants: {variants}.")
        self.metric = metric
        super().__init__(prompt="{question}" if prompt is None else prompt, variant=variant, choice=choice)
        if self.ranks_options and metric != CHOICE:
            raise MmllmError(f"{self.name}: choice: {choice} ranks options; write metric: {CHOICE}.")
        self.variant = choice if self.ranks_options else self.variant
        self._bare, self._scale = prompt is None, box_scale
        self._columns, self._ignored = dict(columns or {}), frozenset(ignore)
        beside = Path(path) / "questions.json"
        where = str(beside) if beside.is_file() else path
        try:
            self._rows = open_rows(where, split, False, config)
            self._media = RowMedia(Path(media) if media is not None else self._rows.folder)
            first = self._row(0) if len(self._rows) else {}
            self._talks = None
            if first and "question" not in first:
                self._talks = Chat(where, media, None, columns, list(ignore), split, config)
        except MmllmError as error:
            folder = f", or questions.json in {path}" if Path(path).is_dir() else ""
            sentence = str(error).removeprefix(f"{self.name}: ").rstrip(".")
            raise MmllmError(f"{self.name}: {sentence}{folder}. {self.fetch}") from error
        # all of them here: an evaluation must not end hours later at a row that nobody can score
        self._places = [(number, turn) for number in range(len(self._rows)) for turn in self._turns(number)]
        if not self._places:
            raise MmllmError(f"{self.name}: {where} does not hold a list of questions. {self.fetch}")

    @property
    def files(self) -> Sequence[Path]:
        """The files that hold the rows."""
        return self._rows.files()

    def __len__(self) -> int:
        """Number of questions."""
        return len(self._places)

    def __getitem__(self, index: int) -> Question:
        """The question at an index; MmllmError where a file of its media is missing."""
        number, turn = self._places[index]
        row = self._row(number)
        identity, kind = row.get("id", number + 1), str(row.get("kind") or "")
        if self._talks is not None:
            return self._continued(self._talks[number], turn, identity, kind)
        media = {key: tuple(self._media.items(key, value)) for key, value in row.items() if self._holds_media(key)}
        options = self._options(row)
        listed_below = options and self.lists_options
        text = lettered(str(row["question"]), options) if listed_below else str(row["question"])
        shown = {key: items for key, items in media.items() if items}
        return self.question(identity, text, shown, self._reference(row), kind, options)

    def _continued(self, talk: Sample, turn: int, identity: Any, kind: str) -> Question:
        """The question of one turn of a conversation, behind what was said before it."""
        asked = talk.messages[turn - 1]
        text = asked.text if self._bare else self.prompt.replace("{question}", asked.text)
        messages = (*talk.messages[: turn - 1], Message(asked.role, text))
        shown = {
            key: items[: sum(placeholders.count(message, key) for message in messages)]
            for key, items in talk.media.items()
        }
        shown = {key: items for key, items in shown.items() if items}
        for key, items in shown.items():
            for item in items:
                self._there(identity, key, item)
        reference = self._reference({"answer": talk.messages[turn].text})
        bare = placeholders.without(asked, list(shown))
        return Question(Sample(f"{self.name}:{identity}/{turn}", messages, shown), bare, reference, kind)

    def graded(self, prediction: str, question: Question) -> tuple[float, bool]:
        """Score by the metric, and whether an answer, an option or a box was read."""
        if self.metric == CHOICE:
            return graded(prediction, question)
        if self.metric == FIELD_F1 and record_of(prediction) is None:
            return 0.0, False
        if self.metric == BOX:
            found = self.box(prediction)
            return (0.0, False) if found is None else (box_hit(found, question.reference), True)  # type: ignore[arg-type]
        return super().graded(prediction, question)

    def box(self, prediction: str) -> Box | None:
        """The box that an answer names, under iou@0.5."""
        return parse_box(prediction, self._scale) if self.metric == BOX else None

    def whole(self, answered: Sequence[Answered]) -> float | None:
        """Under ``wer`` the edits of all over the words of all, under ``field_f1`` the F1 of all fields (of several
        references the first); else the mean."""
        pairs = ((one.prediction, str(one.question.reference[0])) for one in answered)
        if self.metric == FIELD_F1:
            return counts_of_set(pairs, self.variant or "exact").f1
        return word_error_rate(pairs, self.variant or "plain") if self.metric == "wer" else None

    def turn(self, text: str, media: Mapping[str, Sequence[Any]]) -> str:
        """The prompt with the question; without a prompt of its own, the placeholders in front of it."""
        if not self._bare:
            return super().turn(text, media)
        return "\n".join([*(f"<{key}>" for key, items in media.items() for _ in items), escape(text, media)])

    # ---- rows

    def _row(self, number: int) -> dict[str, Any]:
        """A row under our names."""
        try:
            row = dict(self._rows[number])
        except SampleError as error:
            raise MmllmError(f"{self.name}: {self._rows.label(number)}: {error}") from error
        taken = {ours: row.pop(theirs) for ours, theirs in self._columns.items() if theirs in row}
        row = {**row, **taken}
        for theirs, ours in ALIASES.items():
            if theirs in row and ours not in row and not (ours == "answer" and "answers" in row):
                row[ours] = row.pop(theirs)
        return {key: value for key, value in row.items() if key not in self._ignored}

    def _turns(self, number: int) -> Sequence[int]:
        """Which messages of a row are asked for, 0 for a row that is no conversation; MmllmError where none can be."""
        where = f"{self.name}: {self._rows.label(number)}"
        try:
            if self._talks is not None:
                return self._answered(self._talks[number])
            row = self._row(number)
            if not isinstance(row.get("question"), str):
                raise MmllmError(f"it has no question, but the fields {', '.join(row)}")
            self._options(row)
            self._reference(row)
            for key, value in row.items():
                if self._holds_media(key):
                    self._media.items(key, value)
        except (SampleError, MediaError, MmllmError) as error:
            sentence = str(error).removeprefix(f"{self._rows.label(number)}: ").rstrip(".")
            raise MmllmError(f"{where}: {sentence}. {self.fetch}") from error
        self._check_unread(row, where)
        return (0,)

    def _answered(self, talk: Sample) -> Sequence[int]:
        """Which messages of a conversation answer one of the user."""
        pairs = enumerate(zip(talk.messages, talk.messages[1:], strict=False), 1)
        turns = [number for number, (asked, said) in pairs if (asked.role, said.role) == ("user", "assistant")]
        for turn in turns:
            self._reference({"answer": talk.messages[turn].text})
        if not self._bare and any(f"<{key}>" in self.prompt for key in talk.media):
            raise MmllmError("conversations have the places of their media themselves; take them out of the prompt")
        return turns

    def _check_unread(self, row: Mapping[str, Any], where: str) -> None:
        """MmllmError where a field holds media and nothing reads it."""
        for key, value in row.items():
            if key in FIELDS or self._holds_media(key) or not (names_media(value) or self._media.holds(value)):
                continue
            near = nearest(key, (*FIELDS, *MODALITIES))
            hint = f'; did you mean "{near}"?' if near else ""
            raise MmllmError(
                f"{where} has media in the unknown field {key!r}; known: {', '.join((*FIELDS, *MODALITIES))}, and the "
                f"placeholders of the prompt; write columns: {{image: {key}}} or ignore: [{key}]{hint}"
            )

    def _reference(self, row: Mapping[str, Any]) -> tuple[str, ...] | Box:
        """What a right answer is; MmllmError where it cannot be scored by the metric."""
        if row.get("answer") is not None and row.get("answers") is not None:
            raise MmllmError("it has both answer and answers; keep one")
        found = unpacked(row.get("answers") if row.get("answers") is not None else row.get("answer"))
        if self.metric == CHOICE:
            return _right(found, self._options(row))
        if self.metric == BOX:
            return _box(found, self._scale)
        if self.metric == FIELD_F1:
            return (checked(found, self.variant or "exact"),)
        answers = texts_of(found)
        # the metric leaves each annotator out in turn and asks for three others who agree: with fewer it is never 1
        if self.metric == "vqa_accuracy" and len(answers) < 4:
            raise MmllmError(
                f"it has {len(answers)} answers; vqa_accuracy compares annotators and needs 4 or more (VQA has 10): "
                "exact_match is the metric for fewer"
            )
        return answers

    def _options(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Texts of the lettered options: a list, a list as text, or a column for each letter."""
        if self.metric != CHOICE:
            if unpacked(row.get("options")):
                raise MmllmError(f"it has options, and {self.metric} offers none; write metric: {CHOICE}")
            return ()
        found = row.get("options")
        if found is None:
            found = [row.get(letter) for letter in ascii_uppercase[: sum(one in row for one in ascii_uppercase)]]
        return listed(found)

    def _holds_media(self, key: str) -> bool:
        named = key in MODALITIES or f"<{key}>" in self.prompt or key in self._columns
        return key not in FIELDS and named


class QaJson(Qa):
    """The former name of ``qa``."""

    name: ClassVar[str] = "qa_json"


def _right(found: Any, options: Sequence[str]) -> tuple[str, str]:
    """Letter and text of the right option, said by its text, its letter, or its number from 0."""
    for gold in ("text", "letter", "index"):
        with suppress(MmllmError):
            return right(found, options, gold)
    raise MmllmError(
        f"it has the answer {shortened(found)} to {len(options)} options; it is a letter of "
        f"{ascii_uppercase[: len(options)]}, the number of an option from 0, or the text of one"
    )


def _box(found: Any, scale: float) -> Box:
    numbers = found if isinstance(found, list | tuple) else None
    if numbers is None and isinstance(found, str):
        read = parse_box(found, scale)
        if read is not None:
            return read
    if numbers is None or len(numbers) != 4 or not all(isinstance(one, int | float) for one in numbers):
        raise MmllmError(f"it has the answer {shortened(found)}; it is a box of numbers [left, top, right, bottom]")
    left, top, right, bottom = (float(one) / scale for one in numbers)
    if not 0 <= left <= right <= 1 or not 0 <= top <= bottom <= 1:
        raise MmllmError(
            f"it has the box {shortened(found)}, which box_scale: {scale:g} does not make parts of the picture; boxes "
            "in hundredths have 100, of Qwen 1000"
        )
    return left, top, right, bottom
