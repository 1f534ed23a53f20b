"""The form shared by published sets whose files are tables: columns, prompt and rule are facts of a class."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmllm.datasets.clips import clip, lettered
from mmllm.datasets.containers.base import Rows
from mmllm.datasets.row_media import RowMedia
from mmllm.errors import MediaError, MmllmError, SampleError
from mmllm.evaluation.benchmarks.base import CATEGORY_SEPARATOR, Benchmark, Question
from mmllm.evaluation.benchmarks.multiple_choice import LETTER_OR_TEXT, graded
from mmllm.evaluation.benchmarks.options import listed, right
from mmllm.evaluation.benchmarks.published.files import rows_of
from mmllm.evaluation.metrics.choice import plain
from mmllm.evaluation.metrics.table import METRIC_VARIANTS, METRICS
from mmllm.evaluation.references import is_given, texts_of

ONE_WORD = "<image>\n{question}\nAnswer the question using a single word or phrase."
LETTER = "<image>\n{question}\nAnswer with the option's letter from the given choices directly."
VIDEO_LETTER = LETTER.replace("image", "video")
AUDIO_LETTER = LETTER.replace("image", "audio")


def from_hub(repository: str, files: str, more: str = "") -> str:
    """The sentence on how to get a set of the Hugging Face hub; ``more``: what lies beside its tables."""
    also = f", and {more}" if more else ""
    return (
        f"Fetch the data set {repository} of huggingface.co and give its folder as path: {files} belongs in it{also}."
    )


class Published(Benchmark):
    """A set whose rows become questions by the facts that a class states; nothing is asked that they do not say.

    Every row is looked at when the set is opened. Rows are read again when asked, so a set of any size fits.
    """

    columns: ClassVar[Mapping[str, str]]
    """question, answer, id, options and the media's placeholder -> name of the column. ``answer`` may be null."""
    kinds: ClassVar[Sequence[str]] = ()
    """Columns whose values, one below the other, are the kind of a question."""
    facts: ClassVar[Sequence[str]] = ()
    """Columns that the score of the whole set needs, see ``Question.facts``."""
    lettered_columns: ClassVar[Sequence[str]] = ()
    """Columns of the options where each has one of its own."""
    gold: ClassVar[str] = ""
    """How the right option is named: letter, index (from 0) or text. Empty: there are no options."""
    clips: ClassVar[str] = ""
    """Folder, below ``path``, of media that rows only name."""
    asked: ClassVar[str] = ONE_WORD
    tables: ClassVar[Sequence[Sequence[str]]] = ()
    """Official tables that are tried before Parquet, all files of one form; ``{split}`` and ``{config}`` are theirs."""
    options_inside: ClassVar[bool] = False
    """Whether the question has its options in it already."""
    clustered: ClassVar[Sequence[str]] = ()
    """Facts that questions about one item have in common: rows of a table hold each picture anew."""
    of_split: ClassVar[str] = "test"
    of_config: ClassVar[str] = ""
    default_variant: ClassVar[str] = ""
    submission: ClassVar[str] = ""
    """How answers to a split without references are scored."""

    def __init__(
        self,
        *,
        path: str | None = None,
        split: str | None = None,
        config: str | None = None,
        prompt: str | None = None,
        variant: str = "",
        choice: str = "generated",
    ) -> None:
        """Open the tables and look at each row.

        Args:
            path: folder of the set as its repository has it, one of its files, or ``hf://datasets/OWNER/NAME``;
                default: ``data/`` and its name.
            split: default: the one that is reported.
            config: of a set that has several; default: the one that is reported.
            prompt: the user's turn, with ``{question}`` (options are part of it) and the placeholder; default: the
                published one, without what it says of letters where texts are ranked.
            variant: of the metric, where it has several.
            choice: generated; or ranked by the model: likelihood (of the options' texts, which then do not stand below
                the question), likelihood_per_token, likelihood_letter.
        """
        variants = METRIC_VARIANTS.get(self.metric, ())
        if variant and variant not in variants:
            known = ", ".join(variants) or "none"
            raise MmllmError(f"{self.name}: {self.metric} has no variant {variant!r}; its variants: {known}.")
        super().__init__(
            prompt=self.asked if prompt is None else prompt, variant=variant or self.default_variant, choice=choice
        )
        if self.ranks_options:
            self.variant = choice if self.variant in ("", LETTER_OR_TEXT) else f"{self.variant}, {choice}"
        if not self.lists_options and prompt is None:
            self.prompt = f"{self.asked.partition('{question}')[0]}{{question}}"
        self._path = path if path is not None else f"data/{self.name}"
        self._where = Path(self._path)
        self.split, self.config = split or self.of_split, config or self.of_config
        try:
            self._rows = self.open_tables(split)
            self.prepare()
        except MmllmError as error:
            raise MmllmError(f"{self.name}: {str(error).rstrip('.')}. {self.fetch}") from error
        folder = self._where if self._where.is_dir() else self._where.parent
        self._media = RowMedia(folder / self.clips)
        self._places = self._checked()

    @property
    def files(self) -> Sequence[Path]:
        """The tables that hold questions and answers."""
        return self._rows.files()

    def __len__(self) -> int:
        """Number of questions."""
        return len(self._places)

    def __getitem__(self, index: int) -> Question:
        """The question at an index; MmllmError where a file of its media is missing."""
        number, part = self._places[index]
        item = self._items(number)[part]
        try:
            options = self.options(item)
            # of options whose texts stand in the question already there is nothing to write below it
            shown = (
                lettered(str(item["question"]), options)
                if any(options) and not self.options_inside and self.lists_options
                else str(item["question"])
            )
            media = {key: found for key in self._placeholders(item) if (found := self._found(key, item[key]))}
            reference = self.reference(item, options)
        except (SampleError, MediaError) as error:
            raise MmllmError(f"{self.name}: {self._rows.label(number)}: {error}. {self.fetch}") from error
        identity = item.get("id") if is_given(item.get("id")) else number + 1
        question = self.question(identity, shown, media, reference, self.kind(item), options)
        facts = {key: item[key] for key in self.facts if key in item}
        return Question(question.sample, shown, question.reference, question.kind, question.options, facts)

    # ---- what a set may say otherwise

    def open_tables(self, named: str | None) -> Rows:
        """The rows of the set; ``named`` is the split that was asked for by name."""
        return rows_of(self._path, named, self.split, self.config, self.tables)

    def prepare(self) -> None:
        """Open what belongs to the rows, before any is looked at."""

    def cluster(self, question: Question) -> Hashable | None:
        """The facts of ``clustered``."""
        return tuple(str(question.facts.get(fact)) for fact in self.clustered) or None

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """The questions of a row, none or several, under our names (``columns``) beside its own fields."""
        return [self.renamed(row)]

    def options(self, item: Mapping[str, Any]) -> tuple[str, ...]:
        """Texts of the options of a question; empty texts where they stand in the question itself; none: no choice."""
        if not self.gold:
            return ()
        value = item.get("options")
        found = [item.get(column) for column in self.lettered_columns] if self.lettered_columns else value
        return listed(found)

    def reference(self, item: Mapping[str, Any], options: Sequence[str]) -> Any:
        """What is right: letter and text of an option, or the accepted answers."""
        return right(item["answer"], options, self.gold) if options else texts_of(item["answer"])

    def kind(self, item: Mapping[str, Any]) -> str:
        """The group that a question is also reported under."""
        found = [item.get(column) for column in self.kinds]
        named = [", ".join(map(str, one)) if isinstance(one, list) else str(one) for one in found if is_given(one)]
        return CATEGORY_SEPARATOR.join(named)

    def graded(self, prediction: str, question: Question) -> tuple[float, bool]:
        """Whether the right option was taken, where there are some; else the metric."""
        return graded(prediction, question) if question.options else super().graded(prediction, question)

    def score(self, prediction: str, reference: Any) -> float:
        """The metric; of an answer to a choice without options, equality without case and outer punctuation."""
        if self.metric in METRICS:
            return super().score(prediction, reference)
        said = plain(prediction)
        return float(bool(said) and any(said == plain(answer) for answer in reference))

    def turn(self, text: str, media: Mapping[str, Sequence[Any]]) -> str:
        """The prompt with the question; as many placeholders as there are items, none where a row has none."""
        whole, prompt = super().turn(text, media), self.prompt
        for key in self._keys():
            count, mark = len(media.get(key, ())), f"<{key}>"
            if prompt.count(mark) == 1 and count != 1:
                line = f"{mark}\n" if f"{mark}\n" in prompt else mark
                # the first: one that a question holds is escaped
                whole = whole.replace(line, line * count, 1)
        return whole

    def renamed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row with our names beside its own; MmllmError where it has not the columns of the set."""
        missing = [
            column for ours, column in self.columns.items() if column not in row and ours not in ("id", "answer")
        ]
        if missing:
            raise MmllmError(f"it has no {', '.join(missing)}, but the fields {', '.join(row)}")
        return {**row, **{ours: row.get(theirs) for ours, theirs in self.columns.items()}}

    # ---- rows

    def _keys(self) -> list[str]:
        """Placeholders of the prompt."""
        return re.findall(r"<(\w+)>", self.asked)

    def _placeholders(self, item: Mapping[str, Any]) -> list[str]:
        return [key for key in self._keys() if key in item]

    def _found(self, key: str, value: Any) -> tuple[Any, ...]:
        """The items of a media column; a clip may be named without its ending."""
        found = self._media.items(key, value)
        if key == "video":
            # a GIF has an ending, though none of those that clips are looked for with
            found = [
                clip(one.parent, one.name) if isinstance(one, Path) and one.suffix != ".gif" else one for one in found
            ]
        return tuple(found)

    def _items(self, number: int) -> list[Mapping[str, Any]]:
        return list(self.items(self._rows[number]))

    def _checked(self) -> list[tuple[int, int]]:
        """Row and part of each question; MmllmError at the first that cannot be scored, before anything is asked."""
        places: list[tuple[int, int]] = []
        without: list[int] = []
        for number in range(len(self._rows)):
            try:
                for part, item in enumerate(self._items(number)):
                    if not isinstance(item["question"], str) or not item["question"].strip():
                        raise MmllmError(f"it has the question {item['question']!r}; it is a text")
                    places.append((number, part))
                    if not is_given(item.get("answer")):
                        without.append(number)
                        continue
                    options = self.options(item)
                    self.check_ranked(options)
                    self.reference(item, options)
            except (SampleError, MmllmError) as error:
                raise MmllmError(f"{self.name}: {self._rows.label(number)}: {error}. {self.fetch}") from error
        if without and len(without) == len(places):
            how = f" {self.submission}" if self.submission else ""
            raise MmllmError(
                f"{self.name}: the answers of the split {self.split} are withheld (none of {len(places)} rows of "
                f"{self._rows.files()[0]} has one), so it cannot be scored here.{how} {self.fetch}"
            )
        if without or not places:
            where = self._rows.label(without[0]) if without else str(self._where)
            raise MmllmError(f"{self.name}: {where}: it has no {'answer' if without else 'question'}. {self.fetch}")
        return places
