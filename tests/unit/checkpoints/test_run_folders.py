"""What stands in a run's folder beside its weights: code that it names, files that cannot be read or written."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from mmllm.checkpoints.load import Trust, load_run
from mmllm.cli import main
from mmllm.errors import CheckpointError, MmllmError
from mmllm.evaluation.run import evaluate
from tests.support.training import STAGES, edit, inside, train_here

pytestmark = pytest.mark.slow


def test_code_of_a_foreign_run_is_not_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = inside(home, monkeypatch)
    (home / "my_part.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.delitem(sys.modules, "own_part", raising=False)  # another test's, of another folder
    edit(run / "recipe.yaml", "encoders", "image", "type", value="my_part:Encoder")
    with pytest.raises(CheckpointError, match=r"names code of its own: my_part:Encoder; .* --trust-code"):
        load_run(run)
    with pytest.raises(SystemExit, match="it ran"):
        load_run(run, trust=Trust(code=True))


def test_code_that_was_trained_here_is_known(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run = inside(home, monkeypatch)
    (home / "own_part.py").write_text(
        "from mmllm.connectors.projectors.mlp import MlpConnector\nclass Own(MlpConnector):\n    '''Mine.'''\n"
    )
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.delitem(sys.modules, "own_part", raising=False)  # another test's, of another folder
    edit(home / "recipe.yaml", "connectors", "image", "type", value="own_part:Own")
    edit(home / "recipe.yaml", "stages", value={"align": STAGES["align"] | {"steps": 1}})
    train_here(Path("recipe.yaml"), Path("own"))
    load_run(Path("own"))
    assert stat.S_IMODE((tmp_path / "state" / "mmllm" / "code.key").stat().st_mode) == 0o600
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    with pytest.raises(CheckpointError, match="names code of its own: own_part:Own"):
        load_run(Path("own"))
    assert run.exists()


def test_bytes_that_are_no_text(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = inside(home, monkeypatch)
    (run / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    train_here(run / "recipe.yaml", run)
    (run / "recipe.yaml").write_bytes(b"\xff\xfe")
    for command in (["eval", "run"], ["chat", "run"], ["train", "run"]):
        assert main(command) == 2
        assert "run/recipe.yaml: the recipe cannot be read: it is not UTF-8 text" in capsys.readouterr().err


def test_results_that_cannot_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = inside(home, monkeypatch)
    (home / "file").write_text("")
    benchmarks = {"qa_json": {"path": str(home / "questions.json"), "metric": "exact_match"}}
    (home / "questions.json").write_text(json.dumps([{"question": "What?", "answer": "a"}]))
    with pytest.raises(MmllmError, match=r"results cannot be written into file \(File exists\); give --out a folder"):
        evaluate(run, benchmarks, out=Path("file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    home.chmod(0o500)
    with pytest.raises(CheckpointError, match="the run cannot be written into new"):
        train_here(Path("recipe.yaml"), Path("new"))


def test_out_that_is_a_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    with pytest.raises(CheckpointError, match=r"the run cannot be written into chat.jsonl: .*; give another --out"):
        train_here(Path("recipe.yaml"), Path("chat.jsonl"))


def test_a_run_folder_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    from mmllm.training.run_folder import Metrics

    (tmp_path / "run").mkdir()
    metrics_file = Metrics(tmp_path / "run")
    metrics_file.write({"stage": "align", "step": 1})
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl cannot be written any more: No such file"):
        metrics_file.write({"stage": "align", "step": 2})


def test_metrics_have_the_time_of_day(trained: Path) -> None:
    from datetime import datetime

    rows = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    times = [datetime.fromisoformat(row["time"]) for row in rows]
    assert times == sorted(times) and all(time.tzinfo is not None for time in times)
