"""Training from every container: it runs, says what it reads, resumes bit for bit; and data without media stop it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mmllm.checkpoints.store import LEARNED, newest, read_tensors
from mmllm.errors import MmllmError
from tests.support.containers import WRITERS
from tests.support.training import STAGES, finish, metrics, start, tiny_recipe, train_here


def overrides(path: str) -> list[str]:
    """One stage of 4 steps over pictures of that path alone, a checkpoint after two."""
    stage = {**STAGES["align"], "data": {"pictures": 1.0}, "save_every": 2, "keep": 2}
    return [f"data.pictures={json.dumps({'type': 'chat', 'path': path})}", f"stages={json.dumps({'align': stage})}"]


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    recipe, words = tiny_recipe(tmp_path), overrides(WRITERS[name](tmp_path / "rows"))
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert finish(start(train_here, recipe, once, words)) == [0]
    shutil.copytree(once, twice)
    shutil.rmtree(twice / "stages" / "align" / "step-4")
    assert finish(start(train_here, recipe, twice, words)) == [0]
    assert metrics(twice) == metrics(once) and len(metrics(once)) == 4
    found, expected = (newest(out / "stages" / "align")[0] for out in (twice, once))
    assert found is not None and expected is not None and found.manifest.final
    one, other = read_tensors(found.path / LEARNED), read_tensors(expected.path / LEARNED)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in other)


@pytest.mark.slow
def test_two_ranks_read_shards_alike(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    recipe, words = tiny_recipe(tmp_path), overrides(WRITERS["shards"](tmp_path / "rows"))
    assert finish(start(train_here, recipe, tmp_path / "one", words)) == [0]
    assert finish(start(train_here, recipe, tmp_path / "two", words, ranks=2)) == [0, 0]
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [row["labels"] for row in one] == [row["labels"] for row in two]
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in two], rel=1e-4)


def test_a_learning_connector_that_meets_nothing_stops_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"query": "What colour?", "response": "Red."}) + "\n")
    with pytest.raises(
        MmllmError, match=r"connectors\.image learns and has met no item in 4 steps \(16 conversations\)"
    ):
        train_here(tiny_recipe(tmp_path), tmp_path / "out", overrides(str(tmp_path / "rows.jsonl")))
    assert "data.pictures: 1 rows, queries and responses (JSON lines)" in capsys.readouterr().out


def test_a_connector_that_learns_from_text_needs_no_item(tmp_path: Path) -> None:
    """LLaMA-Adapter's prompts: text instructions alone are half of its paper's joint training."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"query": "What colour?", "response": "Red."}) + "\n")
    words = [*overrides(str(tmp_path / "rows.jsonl")), "connectors={image: {type: llama_adapter, from: image}}"]
    train_here(tiny_recipe(tmp_path), tmp_path / "out", words)
    losses = [row["loss"] for row in metrics(tmp_path / "out")]
    assert len(losses) == 4 and losses[-1] < losses[0]


def test_media_under_a_name_that_nobody_reads_stop_the_run_at_once(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    row = {"query": "What colour?", "response": "Red.", "image_path": "0.png"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(MmllmError, match=r'the field "image_path" holds media.*columns: \{image: image_path\}'):
        train_here(recipe, tmp_path / "out", overrides(str(tmp_path / "rows.jsonl")))
