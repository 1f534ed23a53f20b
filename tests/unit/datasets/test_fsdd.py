"""The spoken digits: which recordings are trained and tested on, changed versions, and the real files where given."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mmllm.datasets.fsdd import Fsdd
from mmllm.errors import MmllmError, SampleError
from mmllm.evaluation.benchmarks.clotho_aqa import ClothoAqa
from mmllm.evaluation.benchmarks.fsdd import Fsdd as FsddBenchmark
from mmllm.testing.tiny.benchmarks import clotho_aqa
from mmllm.testing.tiny.datasets import write_fsdd

REAL = os.environ.get("MMLLM_TEST_DATA")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_fsdd(tmp_path)
    return tmp_path


def test_training_and_test_takes_never_overlap(folder: Path) -> None:
    train = {sample.media["audio"][0] for sample in map(Fsdd(str(folder)).__getitem__, range(2))}
    test = set(FsddBenchmark(path=str(folder)).files)
    assert {file.name for file in train} == {"3_anna_5.wav", "7_ben_5.wav"}
    assert {file.name for file in test} == {"3_anna_0.wav", "7_ben_0.wav"}


def test_takes_and_speakers_are_chosen(folder: Path) -> None:
    (sample,) = (Fsdd(str(folder), takes=[0, 5], speakers=["ben"])[i] for i in (1,))
    assert sample.name == "fsdd:7_ben_5" and sample.messages[1].text == "7"
    assert len(FsddBenchmark(path=str(folder), takes=[0, 5])) == 4
    question = FsddBenchmark(path=str(folder), speakers=["anna"])[0]
    assert question.reference == ("3",) and question.kind == "anna"
    for words in ({"takes": [9]}, {"speakers": ["zoe"]}):
        with pytest.raises(MmllmError, match=r"fsdd has no (take 9|speaker zoe); there are"):
            Fsdd(str(folder), **words)  # type: ignore[arg-type]
        with pytest.raises(MmllmError, match="there are"):
            FsddBenchmark(path=str(folder), **words)  # type: ignore[arg-type]


def test_a_file_of_another_name_is_named(folder: Path) -> None:
    (folder / "recordings" / "seven.wav").write_bytes(b"")
    with pytest.raises(MmllmError, match=r"seven\.wav is not named"):
        Fsdd(str(folder))


def test_changed_versions_are_fixed_and_differ(folder: Path) -> None:
    source = Fsdd(str(folder), varied=4)
    assert len(source) == 8 and len({source[i].name for i in range(8)}) == 8
    assert [source[i].messages for i in (0, 2, 4, 6)] == [source[0].messages] * 4
    plain = len(soundfile.read(source[0].media["audio"][0])[0])
    lengths = []
    for index in (2, 4, 6):
        (data,) = source[index].media["audio"]
        assert source[index].media["audio"] == (data,)
        samples, rate = soundfile.read(io.BytesIO(data))
        assert rate == 8000 and np.abs(samples).max() > 0.01
        lengths.append(len(samples))
    assert len(set(lengths)) == 3 and all(0.8 * plain < n < 1.25 * plain + 1600 for n in lengths)
    with pytest.raises(MmllmError, match="varied"):
        Fsdd(str(folder), varied=0)


def test_a_damaged_recording_is_a_sample_error(folder: Path) -> None:
    source = Fsdd(str(folder), varied=2)
    (folder / "recordings" / "3_anna_5.wav").write_bytes(b"broken")
    with pytest.raises(SampleError, match=r"3_anna_5\.wav cannot be read"):
        source[2]


@pytest.mark.skipif(REAL is None, reason="MMLLM_TEST_DATA is not set")
def test_the_real_recordings() -> None:
    path = str(Path(REAL or "") / "fsdd")
    source, benchmark = Fsdd(path), FsddBenchmark(path=path)
    assert len(source) == len(benchmark) == 300
    assert len({question.kind for question in map(benchmark.__getitem__, range(300))}) == 6
    assert not {one.media["audio"][0] for one in map(source.__getitem__, range(300))} & set(benchmark.files)


@pytest.mark.skipif(REAL is None, reason="MMLLM_TEST_DATA is not set")
def test_real_recordings_are_read_as_they_are() -> None:
    from mmllm.processors.sound_files import read_sound, sound_length

    for file in sorted((Path(REAL or "") / "fsdd" / "recordings").glob("*_0.wav"))[:12]:
        samples, rate = soundfile.read(file, dtype="float32")
        assert rate == 8000 and np.array_equal(read_sound(file, 8000), samples)
        assert len(read_sound(file, 16_000)) == sound_length(file, 16_000) == 2 * len(samples)


def test_clotho_aqa_counts_people_as_asked(tmp_path: Path) -> None:
    clotho_aqa(tmp_path)
    majority, unanimous, every = (
        ClothoAqa(path=str(tmp_path), variant=word) for word in ("majority", "unanimous", "every_answer")
    )
    assert [question.reference for question in map(majority.__getitem__, range(2))] == [("yes",), ("rain",)]
    assert majority[1].text == "What is heard, and where?" and majority[1].kind == "word"
    assert majority[0].kind == "yes/no" and majority.score("Yes.", majority[0].reference) == 1.0
    assert len(unanimous) == 1 and unanimous[0].reference == ("rain",)
    assert [every[i].reference for i in range(6)] == [("yes",), ("no",), ("yes",), ("rain",), ("rain",), ("rain",)]
    with pytest.raises(MmllmError, match="unanimous"):
        ClothoAqa(path=str(tmp_path), variant="first")


def test_clotho_aqa_keeps_all_answers_of_a_tie(tmp_path: Path) -> None:
    clotho_aqa(tmp_path)
    file = tmp_path / "clotho_aqa_test.csv"
    file.write_text("file_name,QuestionText,answer,confidence\n0.wav,Loud?,yes,yes\n0.wav,Loud?,no,yes\n")
    assert ClothoAqa(path=str(tmp_path))[0].reference == ("yes", "no")
    file.write_text("file_name,QuestionText,answer,confidence\n0.wav,Loud?,,yes\n")
    with pytest.raises(MmllmError, match=r"row 1 of .* has no answer"):
        ClothoAqa(path=str(tmp_path))
