"""College exams with several pictures, which stand where the question or an option names them: MMMU and MMMU-Pro."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from mmllm.datasets.clips import lettered
from mmllm.datasets.containers.base import Rows
from mmllm.datasets.containers.json_rows import unpacked
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.multiple_choice import CHOICE
from mmllm.evaluation.benchmarks.published.base import LETTER, ONE_WORD, Published, from_hub
from mmllm.evaluation.benchmarks.published.files import rows_of
from mmllm.evaluation.metrics.mmmu import open_answer
from mmllm.messages.placeholders import escape

FIELDS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy", "Public_Health"
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power",
        "Materials", "Mechanical_Engineering",
    ),
}  # fmt: skip
"""Field -> its subjects, as the authors sum them up."""
_FIELD_OF = {subject: name for name, subjects in FIELDS.items() for subject in subjects}
_TAG = re.compile(r"<image (\d)>")
_PICTURES = 7
_LETTER, _WORD = (prompt.rpartition("\n")[2] for prompt in (LETTER, ONE_WORD))


class Mmmu(Published):
    """MMMU (Yue et al. 2023, arXiv 2311.16502): lettered options, and open answers by the authors' rule.

    Pictures stand where ``<image 1>`` names them, in the question or an option; those that nothing names in front. A
    ``prompt`` of your own with ``<image>`` has them all there, and names stay text. Letters are read by the rule of all
    sets here: where none is read the answer is wrong, and none is drawn, as the authors do.
    """

    name: ClassVar[str] = "mmmu"
    metric = CHOICE
    fetch: ClassVar[str] = from_hub(
        "lmms-lab/MMMU (or MMMU/MMMU)", "data/validation-00000-of-000NN.parquet (or a folder for each subject)"
    )
    columns: ClassVar[Mapping[str, str]] = {
        "id": "id", "question": "question", "options": "options", "answer": "answer"
    }  # fmt: skip
    gold: ClassVar[str] = "letter"
    interleaved: ClassVar[bool] = True
    asked: ClassVar[str] = "{question}"
    options_inside: ClassVar[bool] = True
    tables: ClassVar[Sequence[Sequence[str]]] = (
        tuple(f"{subject}/{{split}}-00000-of-00001.parquet" for subject in sorted(_FIELD_OF)),
    )
    of_split: ClassVar[str] = "validation"
    default_variant: ClassVar[str] = "letter_or_text, mmmu_open"
    submission: ClassVar[str] = "Its test split is scored on EvalAI, as {id: letter or text}."
    ask_letter: ClassVar[str] = _LETTER

    def open_tables(self, named: str | None) -> Rows:
        """All subjects, or the one that ``config`` names."""
        tables = () if self.config and not self.of_config else self.tables
        return rows_of(self._path, named, self.split, self.config, tables)

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """The question with its options and what it asks for, and its pictures in the order of their places."""
        item = self.renamed(row)
        options = self.options(item)
        text = self.text(item, options if self.lists_options else (), self.prompt == self.asked)
        if not self.lists_options and any(map(_TAG.search, options)):
            raise MmllmError("its options are pictures, whose likelihood cannot be ranked; choice: likelihood_letter")
        return [{**item, "question": text, "image": self._pictures(row, text), "field": self._field(item)}]

    def text(self, item: Mapping[str, Any], options: Sequence[str], whole: bool) -> str:
        """The question, its options below; ``whole``: and the published words on how to answer."""
        if not options:
            return f"{item['question']}\n\n{_WORD}" if whole and not self.ranks_options else str(item["question"])
        text = lettered(str(item["question"]), options)
        return f"{text}\n\n{self.ask_letter}" if whole else text

    def options(self, item: Mapping[str, Any]) -> tuple[str, ...]:
        """None where the question is an open one."""
        return () if item.get("question_type") == "open" else super().options(item)

    def reference(self, item: Mapping[str, Any], options: Sequence[str]) -> Any:
        """The right option; of an open question the right answers, which the tables write as text."""
        return super().reference(item if options else {**item, "answer": unpacked(item["answer"])}, options)

    def score(self, prediction: str, reference: Any) -> float:
        """Of an open answer."""
        return open_answer(prediction, reference)

    def kind(self, item: Mapping[str, Any]) -> str:
        """Field and subject."""
        return str(item["field"])

    def turn(self, text: str, media: Mapping[str, Sequence[Any]]) -> str:
        """Pictures where they are named; those that are not named, first."""
        if "<image>" in self.prompt:
            return super().turn(text, media)
        left = len(media.get("image", ())) - len(_TAG.findall(text))
        # of backslashes in front of a place two are one of the text
        placed = re.sub(rf"(\\*){_TAG.pattern}", lambda match: f"{match[1] * 2}<image>", escape(text, ["image"]))
        return "<image>\n" * left + self.prompt.replace("{question}", placed)

    def _keys(self) -> list[str]:
        return ["image"]

    def _pictures(self, row: Mapping[str, Any], text: str) -> list[Any]:
        """Of the places in the text, in front those that have none; MmllmError where one is named and missing."""
        shown = {number: row.get(f"image_{number}") for number in range(1, _PICTURES + 1)}
        shown = {number: picture for number, picture in shown.items() if _given(picture)}
        named = [int(number) for number in _TAG.findall(text)]
        missing = [number for number in named if number not in shown]
        if missing:
            raise MmllmError(f"it shows <image {missing[0]}>, and its image_{missing[0]} is empty")
        if "<image>" in self.prompt:
            return list(shown.values())
        return [shown[number] for number in (*(one for one in shown if one not in named), *named)]

    def _field(self, item: Mapping[str, Any]) -> str:
        """``Business: Accounting``; the subject stands in the id where it has no column."""
        subject = str(item.get("subject") or re.sub(r"^[a-z]+_|_\d+$", "", str(item.get("id") or "")))
        return ": ".join(filter(None, (_FIELD_OF.get(subject, ""), subject)))


def _given(picture: Any) -> bool:
    """Whether a cell holds a picture: an empty one is null, or an object of nulls."""
    return any(picture.values()) if isinstance(picture, Mapping) else picture is not None


class MmmuPro(Mmmu):
    """MMMU-Pro (Yue et al. 2024, arXiv 2409.02813), up to ten options; ``config: vision``: pictures hold the questions.

    Papers report the mean of that and ``standard (10 options)``.
    """

    name: ClassVar[str] = "mmmu_pro"
    fetch: ClassVar[str] = from_hub("MMMU/MMMU_Pro", "standard (10 options)/test-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = {"id": "id", "options": "options", "answer": "answer"}
    tables: ClassVar[Sequence[Sequence[str]]] = ()
    of_split: ClassVar[str] = "test"
    of_config: ClassVar[str] = "standard (10 options)"
    default_variant: ClassVar[str] = "letter_or_text"
    ask_letter: ClassVar[str] = "Answer with the option letter from the given choices directly."
    ask_seen: ClassVar[str] = (
        "The last line of your response should be of the following format: 'Answer: $LETTER' (without quotes) where "
        "LETTER is one of options."
    )

    def text(self, item: Mapping[str, Any], options: Sequence[str], whole: bool) -> str:
        """Of a question that stands in its picture, the words on how to answer alone."""
        if "question" in item:
            return super().text(item, options, whole)
        return f"{self.ask_letter} {self.ask_seen}"

    def _pictures(self, row: Mapping[str, Any], text: str) -> list[Any]:
        return [row["image"]] if "question" not in row else super()._pictures(row, text)
