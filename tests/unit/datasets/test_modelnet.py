"""ModelNet's layout as source and benchmark, the miniature data of points and documents, and a run over each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmllm.datasets.modelnet import ModelNet
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.mini_points import MiniPoints
from mmllm.evaluation.benchmarks.mini_recall import MiniRecall
from mmllm.evaluation.benchmarks.modelnet import ModelNet as ModelNetBenchmark
from mmllm.miniature.tasks.documents import RESTORE, write_document
from mmllm.miniature.tasks.points import write_points
from mmllm.miniature.world.points import SOLIDS, solid
from mmllm.miniature.world.words import every_word
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.testing.tiny.datasets import write_modelnet


def test_classes_splits_and_words(tmp_path: Path) -> None:
    write_modelnet(tmp_path, "train")
    (tmp_path / "night_stand" / "test").mkdir()
    (tmp_path / "night_stand" / "test" / "d.npy").write_bytes(b"")
    (tmp_path / "night_stand" / "train" / "readme.md").write_text("no cloud")
    source = ModelNet(str(tmp_path))
    assert [s.name for s in source] == [
        "modelnet:train:night_stand/c.xyz",
        "modelnet:train:tetrahedron/a.off",
        "modelnet:train:tetrahedron/b.off",
    ]
    assert [s.messages[1].text for s in source] == ["night stand", "tetrahedron", "tetrahedron"]
    assert len(ModelNet(str(tmp_path), split="test")) == 1
    named = ModelNet(str(tmp_path), words={"night_stand": "table", "tetrahedron": "triangle"}, question="what?")
    assert named[0].messages[0].text == "<points>\nwhat?" and named[0].messages[1].text == "table"
    with pytest.raises(MmllmError, match="no word for tetrahedron"):
        ModelNet(str(tmp_path), words={"night_stand": "table"})
    with pytest.raises(MmllmError, match="there is no <class>/valid/ in"):
        ModelNet(str(tmp_path), split="valid")


def test_every_file_of_the_tiny_folder_is_read(tmp_path: Path) -> None:
    write_modelnet(tmp_path, "train")
    encoder = tiny_encoders.points()
    clouds = [
        encoder.processor.read(item)["points"] for sample in ModelNet(str(tmp_path)) for item in sample.media["points"]
    ]
    assert [tuple(cloud.shape) for cloud in clouds] == [(32, 3)] * 3
    assert (clouds[1] == clouds[2]).all()  # the same mesh, whether or not its header runs into the counts


def test_the_benchmark_reports_each_class(tmp_path: Path) -> None:
    write_modelnet(tmp_path, "test")
    benchmark = ModelNetBenchmark(path=str(tmp_path))
    assert [benchmark[n].kind for n in range(3)] == ["night_stand", "tetrahedron", "tetrahedron"]
    assert benchmark.score("Night stand.", benchmark[0].reference) == 1.0
    assert benchmark.score("stand", benchmark[0].reference) == 0.0
    with pytest.raises(MmllmError, match=r"modelnet: there is no <class>/test/ in .*Fetch ModelNet10"):
        ModelNetBenchmark(path=str(tmp_path / "nowhere"))


def test_solids_are_what_they_are_called() -> None:
    """Without noise, stretch and cut: distances from the middle tell a ball, and each kind from every other."""
    assert set(SOLIDS.values()) <= set(every_word()) and len(set(SOLIDS.values())) == len(SOLIDS)
    seen = {}
    for kind in SOLIDS:
        radii = []
        for seed in range(8):
            cloud = solid(np.random.default_rng(seed), kind, 400, noise=0.0, hidden=0.0)
            assert cloud.shape == (400, 3) and np.isfinite(cloud).all()
            radii.append(np.quantile(np.linalg.norm(cloud - cloud.mean(0), axis=1), [0.05, 0.5, 0.95]))
        seen[kind] = np.mean(radii, axis=0)
    assert seen["sphere"][2] / seen["sphere"][0] < 1.5 < seen["cross"][2] / seen["cross"][0]
    gaps = [np.abs(seen[a] - seen[b]).max() for a in SOLIDS for b in SOLIDS if a < b]
    assert min(gaps) > 0.02


def test_point_data_is_the_same_for_a_seed_and_splits_do_not_meet(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_points(tmp_path / name, 16, 8, 3)
    write_points(tmp_path / "three", 16, 8, 4)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 16 + 8 + 3
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    contents = {
        (tmp_path / name / file).read_bytes() for name in ("one", "three") for file in files if file.suffix == ".npy"
    }
    assert len(contents) == 48
    benchmark = MiniPoints(path=str(tmp_path / "one"))
    assert len(benchmark) == 8 and {benchmark[n].kind for n in range(8)} == set(SOLIDS)
    assert all(benchmark[n].reference == (SOLIDS[benchmark[n].kind],) for n in range(8))


def test_documents_hold_their_answers_and_splits_do_not_meet(tmp_path: Path) -> None:
    write_document(tmp_path, 30, 12, 0)
    benchmark = MiniRecall(path=str(tmp_path))
    trained = {path.read_text() for path in (tmp_path / "media").iterdir()}
    assert len(trained) == 30
    for n in range(len(benchmark)):
        question = benchmark[n]
        text = question.sample.media["document"][0].read_text()
        assert text not in trained
        facts = dict(fact.split(" ") for fact in text.split(", "))
        assert facts[question.text.removesuffix("?")] == question.reference[0]
        assert len(facts) == 4 and question.kind == f"fact_{list(facts).index(question.text[:-1]) + 1}"
    rows = [json.loads(line) for line in (tmp_path / "restore.jsonl").read_text().splitlines()]
    for row in rows:
        asked, told = row["messages"]
        assert asked["content"] == f"<document>\n{RESTORE}"
        assert told["content"] == (tmp_path / row["document"][0]).read_text()
