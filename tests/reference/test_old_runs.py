"""Runs that an older version trained (``tests/fixtures/old_runs``) load, answer word for word the same, and train on.

``expected.json`` in each folder holds what that version itself answered.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmllm.cli import main as mmllm
from tests.support.short_runs import ROOT, Losses, losses, machine
from tests.support.training import finish, start

# the word that `adaptformer` was written with is still read, with a warning
pytestmark = pytest.mark.filterwarnings("ignore:recipe:FutureWarning")
OLD = Path(__file__).parents[1] / "fixtures" / "old_runs"
RUNS = ("adaptformer", "gated_cross_attention", "pool_lora")
STOPPED = "pool_lora"
"""The run that also holds a checkpoint from before its end, of a stage that reads committed data."""
CLOSE, SAME = 1e-3, 1e-5
"""Relative difference of losses on another machine, and on the same: kernels add up in another order than they did."""


def expected(name: str) -> dict[str, Any]:
    return json.loads((OLD / name / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in the recipes start at the root of the repository."""
    monkeypatch.chdir(ROOT)


def copied(name: str, tmp_path: Path) -> Path:
    """The run in a folder that may be written to."""
    return Path(shutil.copytree(OLD / name, tmp_path / name))


def train_on(run: Path) -> None:
    """``mmllm train`` of a run's own recipe into the run, in this process."""
    if code := mmllm(["train", str(run / "recipe.yaml"), "--out", str(run)]):
        raise SystemExit(code)


def answers(run: Path, benchmark: str) -> dict[str, str]:
    """Question -> answer, as ``mmllm eval`` wrote them."""
    lines = (run / "predictions" / f"{benchmark}.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["name"]: row["prediction"] for row in map(json.loads, lines)}


def answered(run: Path) -> dict[str, dict[str, Any]]:
    """Benchmark -> scores and answers of a run that was evaluated, with and without the picture."""
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))["benchmarks"]
    return {
        name: {
            "score": entry["score"],
            "blind": entry["blind"],
            "answers": answers(run, name),
            "blind_answers": answers(run, f"{name}.blind"),
        }
        for name, entry in results.items()
    }


def stages(run: Path) -> list[str]:
    """Files of all checkpoints."""
    return sorted(str(path.relative_to(run)) for path in (run / "stages").rglob("*"))


@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_answers_what_it_answered(name: str, tmp_path: Path) -> None:
    run = copied(name, tmp_path)
    assert mmllm(["eval", str(run)]) == 0
    assert answered(run) == expected(name)["benchmarks"]


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_sees_the_picture(name: str) -> None:
    """Else the answers would show little."""
    found = expected(name)["benchmarks"].values()
    seen, blind = ([row[word] for row in found] for word in ("answers", "blind_answers"))
    assert seen != blind
    assert sum(len(set(row.values())) for row in seen) >= 10


@pytest.mark.slow
@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_is_known_to_be_finished(name: str, tmp_path: Path) -> None:
    run = copied(name, tmp_path)
    before = stages(run)
    assert finish(start(train_on, run)) == [0]
    assert stages(run) == before and not (run / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("at_root")
def test_an_old_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    """With the losses of the old version's own last steps, dropout's masks included."""
    run, then = copied(STOPPED, tmp_path), expected(STOPPED)["last_steps"]
    stage, last = then["stage"], then["last"]
    shutil.rmtree(run / "stages" / stage / last)
    assert finish(start(train_on, run)) == [0]
    assert stages(run) == stages(OLD / STOPPED)
    now = losses(run)
    close = SAME if machine() == then["machine"] else CLOSE
    assert numbers(now, stage) == pytest.approx(numbers(then["losses"], stage), rel=close)


def numbers(found: Losses, stage: str) -> list[float]:
    return [float.fromhex(value) for value in found[stage]["loss"]]
