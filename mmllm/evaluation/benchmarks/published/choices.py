"""Lettered options about pictures: AI2D, ScienceQA, MMStar, SEED-Bench, CV-Bench, MMBench."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar

from mmllm.evaluation.benchmarks.base import Answered, Question
from mmllm.evaluation.benchmarks.multiple_choice import CHOICE, LETTER_OR_TEXT
from mmllm.evaluation.benchmarks.published.base import LETTER, Published, from_hub
from mmllm.evaluation.metrics.whole import all_right
from mmllm.evaluation.references import is_given

ROLL = 1_000_000
"""MMBench numbers the rolled copies of a question by adding millions to its index."""


class Choice(Published):
    """The letter of the right option, or its text."""

    metric = CHOICE
    asked: ClassVar[str] = LETTER
    gold: ClassVar[str] = "letter"
    default_variant: ClassVar[str] = LETTER_OR_TEXT


class Ai2d(Choice):
    """AI2D (Kembhavi et al. 2016, arXiv 1603.07396): diagrams of school books; with or without masked labels."""

    name: ClassVar[str] = "ai2d"
    fetch: ClassVar[str] = from_hub("lmms-lab/ai2d (or lmms-lab/ai2d-no-mask)", "data/test-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = {
        "image": "image", "question": "question", "options": "options", "answer": "answer"
    }  # fmt: skip
    gold: ClassVar[str] = "index"


class ScienceQa(Choice):
    """ScienceQA (Lu et al. 2022, arXiv 2209.09513), questions with a picture; ``config: ScienceQA-FULL`` has all."""

    name: ClassVar[str] = "scienceqa"
    fetch: ClassVar[str] = from_hub("lmms-lab/ScienceQA", "ScienceQA-IMG/test-00000-of-00001.parquet")
    columns: ClassVar[Mapping[str, str]] = {
        "image": "image", "question": "question", "options": "choices", "answer": "answer"
    }  # fmt: skip
    kinds: ClassVar[Sequence[str]] = ("subject", "topic")
    gold: ClassVar[str] = "index"
    of_config: ClassVar[str] = "ScienceQA-IMG"

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """The question behind its hint."""
        item, hint = self.renamed(row), str(row.get("hint") or "").strip()
        return [{**item, "question": f"Context: {hint}\n{item['question']}"} if hint else item]


class MmStar(Choice):
    """MMStar (Chen et al. 2024, arXiv 2403.20330): options stand in the question; 6 x 250, so the mean of all."""

    name: ClassVar[str] = "mmstar"
    fetch: ClassVar[str] = from_hub("Lin-Chen/MMStar", "mmstar.parquet")
    columns: ClassVar[Mapping[str, str]] = {
        "id": "index", "image": "image", "question": "question", "answer": "answer"
    }  # fmt: skip
    kinds: ClassVar[Sequence[str]] = ("category", "l2_category")
    asked: ClassVar[str] = LETTER.removesuffix(".")
    tables: ClassVar[Sequence[Sequence[str]]] = (("mmstar.parquet",),)
    of_split: ClassVar[str] = "val"

    def options(self, item: Mapping[str, Any]) -> tuple[str, ...]:
        """Four, whose texts stand in the question."""
        return ("",) * 4


class SeedBench(Choice):
    """SEED-Bench (Li et al. 2023, arXiv 2307.16125), the questions about pictures, as papers mostly report it.

    Answers are generated and read; the authors' own number ranks the options' texts by their mean likelihood of a
    token (``choice: likelihood_per_token``), which is another.
    """

    name: ClassVar[str] = "seed_bench"
    fetch: ClassVar[str] = from_hub("lmms-lab/SEED-Bench", "data/test-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = {
        "id": "question_id", "image": "image", "question": "question", "answer": "answer", "medium": "data_type"
    }  # fmt: skip
    kinds: ClassVar[Sequence[str]] = ("question_type_id",)
    lettered_columns: ClassVar[Sequence[str]] = ("choice_a", "choice_b", "choice_c", "choice_d")

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """The question where it is about a picture."""
        item = self.renamed(row)
        return [item] if item["medium"] == "image" else []


class CvBench(Choice):
    """CV-Bench (Tong et al. 2024, arXiv 2406.16860): half 2D, half 3D; 2D is the mean of ADE20K and COCO."""

    name: ClassVar[str] = "cv_bench"
    fetch: ClassVar[str] = from_hub("nyu-visionx/CV-Bench", "test_2d.parquet", "test_3d.parquet")
    columns: ClassVar[Mapping[str, str]] = {
        "id": "idx", "image": "image", "question": "prompt", "options": "choices", "answer": "answer"
    }  # fmt: skip
    kinds: ClassVar[Sequence[str]] = ("source", "task")
    facts: ClassVar[Sequence[str]] = ("source",)
    tables: ClassVar[Sequence[Sequence[str]]] = (("{split}_2d.parquet", "{split}_3d.parquet"),)
    options_inside: ClassVar[bool] = True
    default_variant: ClassVar[str] = "official"

    def whole(self, answered: Sequence[Answered]) -> float | None:
        """Half the mean of the two 2D sources, half the 3D one; of some of the sources alone their mean."""
        by_source: dict[str, list[float]] = {}
        for one in answered:
            by_source.setdefault(str(one.question.facts["source"]), []).append(one.score)
        means = {source: fmean(scores) for source, scores in by_source.items()}
        if set(means) == {"ADE20K", "COCO", "Omni3D"}:
            return (means["ADE20K"] + means["COCO"]) / 4 + means["Omni3D"] / 2
        return fmean(means.values())

    def figures(self, answered: Sequence[Answered]) -> dict[str, float]:
        """The plain mean over questions, which harnesses report."""
        return {"mean_of_questions": fmean(one.score for one in answered)}


class MmBench(Choice):
    """MMBench (Liu et al. 2023, arXiv 2307.06281), circular: right where it is right in every roll of its options.

    Rolls are rows whose index is a million and more. ``vanilla`` beside the score is over the rows without them.
    Nothing is asked of a judge: what names no option is wrong.
    """

    name: ClassVar[str] = "mmbench"
    fetch: ClassVar[str] = from_hub("lmms-lab/MMBench", "en/dev-00000-of-00001.parquet")
    columns: ClassVar[Mapping[str, str]] = {
        "id": "index", "image": "image", "question": "question", "answer": "answer"
    }  # fmt: skip
    kinds: ClassVar[Sequence[str]] = ("L2-category", "category")
    facts: ClassVar[Sequence[str]] = ("index",)
    lettered_columns: ClassVar[Sequence[str]] = ("A", "B", "C", "D")
    asked: ClassVar[str] = LETTER.replace("{question}\n", "{question}\n\n")
    tables: ClassVar[Sequence[Sequence[str]]] = (
        ("MMBench_{split}_{config}_V11.tsv",),
        ("MMBench_{split}_{config}.tsv",),
    )
    of_split: ClassVar[str] = "dev"
    of_config: ClassVar[str] = "en"
    default_variant: ClassVar[str] = "circular"
    submission: ClassVar[str] = (
        "Its test split is scored on mmbench.opencompass.org.cn, as a sheet of index, question, A, B, C, D, prediction."
    )

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """The question behind its hint, and what leads to the options."""
        # tables of TSV have every cell as a text, and another spelling of the group
        item = self.renamed({("L2-category" if key == "l2-category" else key): value for key, value in row.items()})
        hint = f"{row['hint']} " if is_given(row.get("hint")) and str(row["hint"]) != "nan" else ""
        question = f"{hint}{item['question']}{' There are several options:' if self.lists_options else ''}"
        return [{**item, "index": int(item["index"]), "question": question}]

    def units(self, answered: Sequence[Answered]) -> Sequence[float] | None:
        """1 for each question that is right in all its rolls, else 0."""
        return all_right(answered, lambda one: one.question.facts["index"] % ROLL)

    def cluster(self, question: Question) -> Hashable | None:
        """The question that rows are rolls of."""
        return int(question.facts["index"]) % ROLL

    def figures(self, answered: Sequence[Answered]) -> dict[str, float]:
        """The share of right answers to the rows that are no rolls."""
        plain = [one.score for one in answered if one.question.facts["index"] < ROLL]
        return {"vanilla": fmean(plain)} if plain else {}
