"""Training sources about clips: samples of MSVD-QA, MSRVTT-QA and NExT-QA, and what a broken file or row says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmllm.datasets.clips import clip, mapped
from mmllm.datasets.msrvtt_qa import MsrvttQa
from mmllm.datasets.msvd_qa import MsvdQa
from mmllm.datasets.nextqa import NextQa
from mmllm.errors import MmllmError, SampleError
from mmllm.evaluation.benchmarks.nextqa import NextQa as NextQaBenchmark
from mmllm.testing.tiny import datasets as tiny
from mmllm.types import Message


def test_msvd_qa_rows_become_samples(tmp_path: Path) -> None:
    sample = tiny.msvd_qa(tmp_path)[0]
    asked = "<video>\nwhat is a man doing?\nAnswer the question using a single word or phrase."
    assert sample.messages == (Message("user", asked), Message("assistant", "run"))
    assert sample.media == {"video": (tmp_path / "YouTubeClips" / "-4w.uPC_1_9.mp4",)}
    assert sample.name == "msvd_qa:train:5"
    short = MsvdQa(str(tmp_path), prompt="<video> {question}")
    assert short[1].messages[0].text == "<video> who is cooking?"
    with pytest.raises(MmllmError, match="prompt of msvd_qa"):
        MsvdQa(str(tmp_path), prompt="<video>")


def test_a_row_that_cannot_be_used_is_a_named_bad_sample(tmp_path: Path) -> None:
    tiny.msrvtt_qa(tmp_path)
    file = tmp_path / "train_qa.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([*rows, {"id": 9, "question": "who?"}, 3]))
    source = MsrvttQa(str(tmp_path))
    assert Path(source[0].media["video"][0]).name == "video1.mp4"
    for index in (2, 3):
        with pytest.raises(SampleError, match=f"msrvtt_qa:train:{index}: the row"):
            source[index]
    file.write_text('{"half')
    with pytest.raises(MmllmError, match="is not JSON"):
        MsrvttQa(str(tmp_path))
    file.write_text("{}")
    with pytest.raises(MmllmError, match="is not a list"):
        MsrvttQa(str(tmp_path))
    (tmp_path / "names.json").write_text('{"7": "a"}')
    file.write_text(json.dumps(rows))
    with pytest.raises(SampleError, match="msrvtt_qa:train:5: the mapping has no video1"):
        MsrvttQa(str(tmp_path), mapping="names.json")[0]


def test_nextqa_asks_in_training_what_the_benchmark_asks(tmp_path: Path) -> None:
    tiny.write_nextqa(tmp_path, "val")
    source, benchmark = NextQa(str(tmp_path), "val"), NextQaBenchmark(path=str(tmp_path))
    for index in range(len(benchmark)):
        asked = benchmark[index]
        assert source[index].messages[0] == asked.sample.messages[0]
        assert source[index].media == asked.sample.media
        assert source[index].messages[1].text == asked.reference[0]
        assert benchmark.graded(source[index].messages[1].text, asked) == (1.0, True)


def test_nextqa_names_bad_rows_and_files(tmp_path: Path) -> None:
    tiny.nextqa(tmp_path)
    file = tmp_path / "train.csv"
    text = file.read_text()
    file.write_text(text.replace(",2,6,CH,", ",,6,CH,").replace("2925959064", "7"))
    source = NextQa(str(tmp_path))
    with pytest.raises(SampleError, match="nextqa:train:4010069381_6: the row lacks an answer of 0 to 4"):
        source[0]
    assert source[1].messages[1].text == "A"
    with pytest.raises(SampleError, match="nextqa:train:7_1: the row lacks an entry in map_vid_vidorID"):
        source[2]
    file.write_text(text.replace("qid", "id"))
    with pytest.raises(MmllmError, match="has no qid"):
        NextQa(str(tmp_path))
    file.write_text(text.splitlines()[0])
    with pytest.raises(MmllmError, match="has no question"):
        NextQa(str(tmp_path))


def test_mappings_and_endings(tmp_path: Path) -> None:
    lines, table = tmp_path / "m.txt", tmp_path / "m.json"
    lines.write_text("a_1_2 vid1\n\nb vid2\n")
    assert mapped(lines) == {"vid1": "a_1_2", "vid2": "b"}
    for wrong in ("a vid1\nb\n", "a b c\n", ""):
        lines.write_text(wrong)
        with pytest.raises(MmllmError, match=r"m\.txt, line"):
            mapped(lines)
    for wrong in ("[1]", "{}", '{"a": 1}', "{"):
        table.write_text(wrong)
        with pytest.raises(MmllmError, match=r"m\.json is not"):
            mapped(table)
    (tmp_path / "a.b.webm").touch()
    assert clip(tmp_path, "a.b").name == "a.b.webm"
    assert clip(tmp_path, "a.b.avi").name == "a.b.avi"
    assert clip(tmp_path, "c").name == "c.mp4"
