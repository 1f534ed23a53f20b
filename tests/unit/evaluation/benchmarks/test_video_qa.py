"""Video benchmarks: official files joined, letters read by strict rules, a known score of NExT-QA reproduced."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mmllm.datasets.clips import lettered
from mmllm.datasets.nextqa import MAP, read
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import Answered, Question
from mmllm.evaluation.benchmarks.mini_scenes import MiniScenes
from mmllm.evaluation.benchmarks.msrvtt_qa import MsrvttQa
from mmllm.evaluation.benchmarks.msvd_qa import MsvdQa
from mmllm.evaluation.benchmarks.mvbench import TASKS, MvBench
from mmllm.evaluation.benchmarks.nextqa import NextQa
from mmllm.evaluation.metrics.intervals import interval
from mmllm.evaluation.summary import kinds
from mmllm.testing.tiny import benchmarks as tiny
from mmllm.testing.tiny.mini_benchmarks import mini
from mmllm.types import Sample


def test_msvd_qa_finds_clips_through_the_mapping(tmp_path: Path) -> None:
    benchmark = tiny.msvd_qa(tmp_path)
    question = benchmark[0]
    assert question.sample.name == "msvd_qa:5" and question.kind == "what"
    assert question.sample.media == {"video": (tmp_path / "YouTubeClips" / "-4w.uPC_1_9.mp4",)}
    text = "<video>\nwhat is a man doing?\nAnswer the question using a single word or phrase."
    assert question.sample.messages[0].text == text
    assert benchmark.score("Run.", question.reference) == 1.0 and benchmark.score("running", question.reference) == 0.0
    assert benchmark[1].kind == "who"


def test_msvd_qa_takes_a_json_mapping_and_none(tmp_path: Path) -> None:
    tiny.msvd_qa(tmp_path)
    for clip in (tmp_path / "YouTubeClips").iterdir():
        clip.rename(clip.with_suffix(".avi"))
    (tmp_path / "files.json").write_text(json.dumps({"1": "-4w.uPC_1_9.avi", "vid2": "-4w.uPC_2_9"}))
    benchmark = MsvdQa(path=str(tmp_path), mapping="files.json")
    assert [Path(benchmark[n].sample.media["video"][0]).name for n in (0, 1)] == ["-4w.uPC_1_9.avi", "-4w.uPC_2_9.avi"]
    assert benchmark.files[1].name == "files.json"
    with pytest.raises(MmllmError, match=r"vid1\.mp4 is missing"):
        MsvdQa(path=str(tmp_path), mapping=None)[0]
    (tmp_path / "files.json").write_text(json.dumps({"1": "a"}))
    with pytest.raises(MmllmError, match="has no vid2"):
        MsvdQa(path=str(tmp_path), mapping="files.json")


def test_msrvtt_qa_names_its_clips_by_number(tmp_path: Path) -> None:
    tiny.msrvtt_qa(tmp_path)
    (tmp_path / "TestVideo" / "video1.webm").touch()
    benchmark = MsrvttQa(path=str(tmp_path))
    assert Path(benchmark[0].sample.media["video"][0]).name == "video1.mp4"  # the first of the usual endings
    rows = json.loads(benchmark.files[0].read_text())
    rows[0]["question"] = "Which of them runs?"
    benchmark.files[0].write_text(json.dumps(rows))
    assert MsrvttQa(path=str(tmp_path))[0].kind == "other"


def test_nextqa_letters_the_options_and_groups_by_type(tmp_path: Path) -> None:
    benchmark = tiny.nextqa(tmp_path)
    question = benchmark[0]
    lines = question.sample.messages[0].text.split("\n")
    assert lines[:4] == ["<video>", "how do the two men play", "A. roll", "B. tap"]
    assert lines[-1] == "Answer with the option's letter from the given choices directly."
    assert question.reference == ("C", "strum the string") and question.sample.name == "nextqa:4010069381_6"
    assert [benchmark[n].kind for n in range(3)] == [
        "causal: how",
        "temporal: before and after",
        "descriptive: location",
    ]
    answers = {"C": 1, "(c)": 1, "Strum the string.": 1, "C. roll": 1, "D": 0, "hit": 0, "E": 0}
    for said, score in answers.items():
        assert benchmark.graded(said, question) == (score, True), said
    # F: a letter that the question does not offer
    for said in ("F", "strum", "it is C or D", "", "a man"):
        assert benchmark.graded(said, question) == (0, False), said


@pytest.mark.parametrize("damage", [",TX,", ",CH,"])
def test_nextqa_names_the_row_it_cannot_take(tmp_path: Path, damage: str) -> None:
    tiny.nextqa(tmp_path)
    file = tmp_path / "val.csv"
    text = file.read_text()
    file.write_text(text.replace(",2,6,CH,", f",7,6{damage}"))
    with pytest.raises(MmllmError, match="4010069381_6"):
        NextQa(path=str(tmp_path))
    file.write_text(text)
    (tmp_path / MAP).write_text('{"4010069381": "a/b"}')
    with pytest.raises(MmllmError, match=r"2925959064_1.*map_vid_vidorID"):
        NextQa(path=str(tmp_path))


def test_mvbench_asks_chosen_tasks_and_cuts_where_bounds_are_given(tmp_path: Path) -> None:
    benchmark = tiny.mvbench(tmp_path)
    assert len(benchmark) == len(TASKS) == 20 and {benchmark[n].kind for n in range(20)} == set(TASKS)
    first = benchmark[0]
    assert first.sample.media == {"video": (tmp_path / "video/star/Charades_v1_480/0.b.mp4#t=11.1,17.25",)}
    assert first.sample.name == "mvbench:action_sequence/0" and first.reference == ("B", "right")
    some = MvBench(path=str(tmp_path), tasks=["action_count", "object_shuffle"])
    assert [some[n].kind for n in range(2)] == ["action_count", "object_shuffle"] and len(some.files) == 2
    assert "#" not in str(some[0].sample.media["video"][0])
    with pytest.raises(MmllmError, match="no task 'action_counts'; known: action_sequence"):
        MvBench(path=str(tmp_path), tasks=["action_counts"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"answer": "up"}, "answer of entry 0"),
        ({"start": 3.0, "end": 3.0}, "start before end"),
        ({"start": 3.0}, "start before end"),
        ({"start": "0", "end": "3"}, "start before end"),
        ({"candidates": "left"}, "answer of entry 0"),
    ],
)
def test_mvbench_refuses_rows_that_cannot_be_asked(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    tiny.mvbench(tmp_path)
    file = tmp_path / "json" / "action_count.json"
    (row,) = json.loads(file.read_text())
    file.write_text(json.dumps([row | change]))
    with pytest.raises(MmllmError, match=sentence):
        MvBench(path=str(tmp_path))


def test_parts_of_a_kind_count_under_it_too(tmp_path: Path) -> None:
    def answered(kind: str, score: float) -> Answered:
        return Answered(Question(Sample("a", ()), "", ("x",), kind), "", score)

    some = [answered("causal: why", 1), answered("causal: how", 0), answered("yes/no", 1)]
    found = kinds(tiny.msvd_qa(tmp_path), some, range(3), [answered("", 0), answered("", 0), answered("", 1)])
    assert {kind: (entry["score"], entry["n"], entry["blind"]) for kind, entry in found.items()} == {
        "causal": (0.5, 2, 0.0),
        "causal: how": (0, 1, 0.0),
        "causal: why": (1, 1, 0.0),
        "yes/no": (1, 1, 1.0),
    }
    assert found["causal"]["interval"] == list(interval([1, 0]))


class Clips(MiniScenes):
    """A miniature benchmark of another sense."""

    name: ClassVar[str] = "clips"
    modality: ClassVar[str] = "graph"


def node(folder: Path) -> str:
    """A node of a file without content."""
    (folder / "g.npz").touch()
    return "g.npz#17"


def test_a_miniature_benchmark_may_ask_about_any_media(tmp_path: Path) -> None:
    question = mini(Clips, tmp_path, node)[0]
    assert question.sample.media == {"graph": (tmp_path / "test" / "g.npz#17",)}
    assert question.sample.messages[0].text == "<graph>\nwhat color is the shape?"
    (tmp_path / "test" / "g.npz").unlink()
    with pytest.raises(MmllmError, match=r"the graph .*g\.npz#17 is missing"):
        Clips(path=str(tmp_path))[0]


def test_the_published_predictions_of_hga_have_their_published_score(tmp_path: Path) -> None:
    """NExT-QA's own example file: 46.26 causal, 50.74 temporal, 59.33 descriptive, 49.74 of all, as its README says."""
    root = os.environ.get("MMLLM_TEST_DATA")
    if not root:
        pytest.skip("MMLLM_TEST_DATA is not set")
    official = Path(root) / "eval_oracles" / "nextqa"
    shutil.copy(official / "val.csv", tmp_path)
    videos = sorted({row["video"] for row in read(tmp_path / "val.csv")})
    (tmp_path / MAP).write_text(json.dumps({video: video for video in videos}))
    (tmp_path / "NExTVideo").mkdir()
    for video in videos:
        (tmp_path / "NExTVideo" / f"{video}.mp4").touch()
    benchmark = NextQa(path=str(tmp_path))
    said = json.loads((official / "HGA-bert-ft-h256-val-example.json").read_text())
    scores = defaultdict(list)
    for index in range(len(benchmark)):
        question = benchmark[index]
        answer = said[question.sample.name.removeprefix("nextqa:")]
        assert "ABCDE"[answer["answer"]] == question.reference[0]
        score, _ = benchmark.graded(f"({'ABCDE'[answer['prediction']]})", question)
        for kind in ("all", question.kind.partition(":")[0]):
            scores[kind].append(score)
    found = {kind: round(100 * sum(some) / len(some), 2) for kind, some in scores.items()}
    assert found == {"all": 49.74, "causal": 46.26, "temporal": 50.74, "descriptive": 59.33}
    assert len(scores["all"]) == 4996


def test_more_options_than_letters_are_refused() -> None:
    assert lettered("Which?", ["one", "two"]) == "Which?\nA. one\nB. two"
    with pytest.raises(MmllmError, match="has 27 options; at most 26 can be lettered"):
        lettered("Which?", [str(number) for number in range(27)])
