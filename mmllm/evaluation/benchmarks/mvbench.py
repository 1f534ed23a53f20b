"""MVBench (Li et al. 2024, arXiv 2311.17005): twenty tasks about time in clips, options to choose from, by accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmllm.datasets.clips import LETTER_ANSWER, clip
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Question
from mmllm.evaluation.benchmarks.multiple_choice import MultipleChoice

TASKS = {
    "action_sequence": "star/Charades_v1_480",
    "action_prediction": "star/Charades_v1_480",
    "action_antonym": "ssv2_video",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480",
    "object_shuffle": "perception/videos",
    "moving_direction": "clevrer/video_validation",
    "action_localization": "sta/sta_video",
    "scene_transition": "scene_qa/video",
    "action_count": "perception/videos",
    "moving_count": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation",
    "state_change": "perception/videos",
    "fine_grained_pose": "nturgbd",
    "character_order": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "counterfactual_inference": "clevrer/video_validation",
}
"""Name of a task's JSON file -> folder of its clips, as the data set is unpacked."""
FIELDS = ("video", "question", "candidates", "answer")


class MvBench(MultipleChoice):
    """MVBench, accuracy: ``json/<task>.json`` and the clips of each data set in ``path``/``videos``.

    ``tasks`` names which of the twenty to ask. Where a row has ``start`` and ``end``, only that part of the clip is
    shown: its path ends in ``#t=11.1,17.2``.
    """

    name: ClassVar[str] = "mvbench"
    fetch: ClassVar[str] = (
        "Fetch the data set OpenGVLab/MVBench and put its folder json and, unpacked, its folder video into the folder "
        "given as path (episodic_reasoning comes as folders of pictures: join each to a clip of 3 frames a second, "
        "tvqa/frames_fps3_hq/<name>.mp4; tasks: [action_count] asks only the named ones)."
    )

    def __init__(
        self,
        *,
        path: str = "data/mvbench",
        tasks: Sequence[str] = tuple(TASKS),
        videos: str = "video",
        prompt: str = LETTER_ANSWER,
    ) -> None:
        super().__init__(prompt=prompt)
        unknown = [task for task in tasks if task not in TASKS]
        if unknown or not tasks:
            raise MmllmError(
                f"{self.name} has no task {(unknown or ['without name'])[0]!r}; known: {', '.join(TASKS)}."
            )
        self._path, self._videos, self.tasks = Path(path), Path(path) / videos, tuple(tasks)
        self._rows = [
            (task, number, row)
            for task, file in zip(self.tasks, self.files, strict=True)
            for number, row in enumerate(self._read(file))
        ]

    def _read(self, file: Path) -> list[Mapping[str, Any]]:
        rows = self.rows(self.read_json(file), file, None, FIELDS)
        for number, row in enumerate(rows):
            if not isinstance(row["candidates"], list) or row["candidates"].count(row["answer"]) < 1:
                raise MmllmError(f"{self.name}: the answer of entry {number} of {file} is not among its candidates.")
            _bounds(row)
        return rows

    @property
    def files(self) -> Sequence[Path]:
        """The questions of each task."""
        return tuple(self._path / "json" / f"{task}.json" for task in self.tasks)

    def __len__(self) -> int:
        """Number of questions in all tasks."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Question:
        """The question at an index, the tasks one after another; kind is the task."""
        task, number, row = self._rows[index]
        file = clip(self._videos / TASKS[task], str(row["video"]))
        # behind the name, as `frames` reads which part of a clip is meant
        media = {"video": (file.with_name(file.name + _bounds(row)),)}
        right = row["candidates"].index(row["answer"])
        return self.of_options(f"{task}/{number}", row["question"], row["candidates"], right, media, task)


def _bounds(row: Mapping[str, Any]) -> str:
    """The part of the clip a row is about as the end of its path; empty text where it is about all of it."""
    start, end = row.get("start"), row.get("end")
    if start is None and end is None:
        return ""
    if not all(isinstance(bound, (int, float)) for bound in (start, end)) or not 0 <= start < end:  # type: ignore[operator]
        raise MmllmError(
            f"mvbench: {row['video']} has bounds of {start!r} and {end!r}; they are seconds, start before end."
        )
    return f"#t={start:g},{end:g}"
