"""Questions about clips: Video-MME, EgoSchema, PerceptionTest, LongVideoBench, TGIF-QA."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from mmllm.datasets.containers.base import Rows
from mmllm.datasets.containers.opening import open_files
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Answered
from mmllm.evaluation.benchmarks.multiple_choice import CHOICE
from mmllm.evaluation.benchmarks.published.base import VIDEO_LETTER, Published, from_hub
from mmllm.evaluation.benchmarks.published.choices import Choice

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class VideoMme(Choice):
    """Video-MME (Fu et al. 2024, arXiv 2405.21075) without subtitles: 900 clips, three questions each, by duration."""

    name: ClassVar[str] = "video_mme"
    fetch: ClassVar[str] = from_hub(
        "lmms-lab/Video-MME", "videomme/test-00000-of-00001.parquet", "its zips, unpacked, in the folder data"
    )
    columns: ClassVar[Mapping[str, str]] = {
        "id": "question_id", "video": "videoID", "question": "question", "options": "options", "answer": "answer"
    }  # fmt: skip
    kinds: ClassVar[Sequence[str]] = ("duration", "task_type")
    clips: ClassVar[str] = "data"
    asked: ClassVar[str] = (
        "<video>\nSelect the best answer to the following multiple-choice question based on the video. Respond with "
        "only the letter (A, B, C, or D) of the correct option.\n{question}\nThe best answer is:"
    )
    of_config: ClassVar[str] = "videomme"


class EgoSchema(Choice):
    """EgoSchema (Mangalam et al. 2023, arXiv 2308.09126), the 500 questions whose answers are public.

    Read are the hub's tables, or ``questions.json`` and ``subset_answers.json`` of the authors' repository, of which
    the questions with an answer are asked.
    """

    name: ClassVar[str] = "egoschema"
    fetch: ClassVar[str] = from_hub(
        "lmms-lab/egoschema", "Subset/test-00000-of-00001.parquet", "its clips in the folder videos"
    )
    columns: ClassVar[Mapping[str, str]] = {
        "id": "question_idx", "video": "video_idx", "question": "question", "options": "option", "answer": "answer"
    }  # fmt: skip
    clips: ClassVar[str] = "videos"
    asked: ClassVar[str] = VIDEO_LETTER
    gold: ClassVar[str] = "index"
    of_config: ClassVar[str] = "Subset"
    submission: ClassVar[str] = (
        "All 5,031 questions (config: MC) are scored by the authors' validation server, as {q_uid: number}; config: "
        "Subset has answers."
    )
    _answers: Mapping[str, Any] | None = None

    def open_tables(self, named: str | None) -> Rows:
        """The authors' questions with their answers where they are here, else tables."""
        questions = self._where / "questions.json"
        if not questions.is_file():
            return super().open_tables(named)
        self._answers = self.read_json(self._where / "subset_answers.json")
        if not isinstance(self._answers, dict):
            raise MmllmError(f"{self._where / 'subset_answers.json'} is no object of question and number")
        return open_files([questions], str(questions))

    @property
    def files(self) -> Sequence[Path]:
        """The tables, and the answers where they are a file of their own."""
        own = () if self._answers is None else (self._where / "subset_answers.json",)
        return (*super().files, *own)

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """The question; of the authors' file only one whose answer is public."""
        if self._answers is None:
            return super().items(row)
        name = str(row.get("q_uid"))
        if name not in self._answers:
            return []
        options = [row.get(f"option {number}") for number in range(5)]
        question, answer = row.get("question"), self._answers[name]
        return [{"id": name, "video": name, "question": question, "options": options, "answer": answer}]


class PerceptionTest(Choice):
    """Perception Test (Patraucean et al. 2023, arXiv 2305.13786), multiple choice of three, by area and reasoning."""

    name: ClassVar[str] = "perception_test"
    fetch: ClassVar[str] = from_hub(
        "lmms-lab/PerceptionTest_Val",
        "mc_question_val/validation-00000-of-00001.parquet",
        "its clips in the folder videos (those of cut_frame_mapping_valid.json cut there: they show the answer)",
    )
    columns: ClassVar[Mapping[str, str]] = {
        "of": "question_id", "video": "video_name", "question": "question", "options": "options", "answer": "answer_id"
    }  # fmt: skip
    kinds: ClassVar[Sequence[str]] = ("area", "reasoning")
    clips: ClassVar[str] = "videos"
    asked: ClassVar[str] = VIDEO_LETTER
    gold: ClassVar[str] = "index"
    of_split: ClassVar[str] = "validation"
    of_config: ClassVar[str] = "mc_question_val"
    submission: ClassVar[str] = "Its test split is scored on EvalAI."

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """A question's number is one of its clip."""
        item = self.renamed(row)
        return [{**item, "id": f"{item['video']}/{item['of']}"}]


class LongVideoBench(Choice):
    """LongVideoBench (Wu et al. 2024, arXiv 2407.15754), clips without subtitles, by duration group and category."""

    name: ClassVar[str] = "longvideobench"
    fetch: ClassVar[str] = from_hub(
        "longvideobench/LongVideoBench", "validation-00000-of-00001.parquet or lvb_val.json", "videos in that folder"
    )
    columns: ClassVar[Mapping[str, str]] = {
        "id": "id", "video": "video_path", "question": "question", "answer": "correct_choice"
    }  # fmt: skip
    kinds: ClassVar[Sequence[str]] = ("duration_group", "question_category")
    tables: ClassVar[Sequence[Sequence[str]]] = (("lvb_val.json",),)
    clips: ClassVar[str] = "videos"
    asked: ClassVar[str] = VIDEO_LETTER
    gold: ClassVar[str] = "index"
    of_split: ClassVar[str] = "validation"
    submission: ClassVar[str] = "Its test split is scored by its authors' leaderboard."

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """Options are a list in the official file, and columns with N/A for none in the hub's."""
        item = self.renamed(row)
        options = row["candidates"] if "candidates" in row else [row.get(f"option{number}") for number in range(5)]
        return [{**item, "options": options}]


class TgifQa(Published):
    """TGIF-QA (Jang et al. 2017, arXiv 1704.04497): config action, transition, frameqa or count; clips are GIFs.

    Action and transition have five options; frameqa is exact match. Count is exact match too, and beside it the mean
    squared error of the rounded number, as the paper reports it, over the answers that hold a number.
    """

    name: ClassVar[str] = "tgif_qa"
    fetch: ClassVar[str] = (
        "Fetch the folder dataset of github.com/YunseokJANG/tgif-qa and the GIFs it names, and put "
        "Test_action_question.csv and the folder gifs into the folder given as path."
    )
    columns: ClassVar[Mapping[str, str]] = {"video": "gif_name", "question": "question", "answer": "answer"}
    lettered_columns: ClassVar[Sequence[str]] = ("a1", "a2", "a3", "a4", "a5")
    tables: ClassVar[Sequence[Sequence[str]]] = (("Test_{config}_question.csv",),)
    clips: ClassVar[str] = "gifs"
    of_config: ClassVar[str] = "action"
    gold: ClassVar[str] = "index"
    asked: ClassVar[str] = "<video>\n{question}"
    metric = CHOICE

    def options(self, item: Mapping[str, Any]) -> tuple[str, ...]:
        """Five, or none under frameqa and count."""
        return super().options(item) if self.config in ("action", "transition") else ()

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """The question about its GIF."""
        item = self.renamed(row)
        return [{**item, "video": f"{item['video']}.gif"}]

    def figures(self, answered: Sequence[Answered]) -> dict[str, float]:
        """Of counts, the mean squared error and over how many answers."""
        if self.config != "count":
            return {}
        errors = [
            (round(float(match[0])) - int(one.question.reference[0])) ** 2
            for one in answered
            if (match := _NUMBER.search(one.prediction))
        ]
        return {"mse": fmean(errors), "mse_n": float(len(errors))} if errors else {}
