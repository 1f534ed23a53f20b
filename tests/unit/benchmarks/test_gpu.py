"""The benchmark for one GPU runs on a CPU with tiny parts: both steps give one loss, requests are answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.speed import gpu
from tests.support.training import finish, start


def measure(folder: Path) -> None:
    """Both kinds of cases, as short as they can be."""
    case = gpu.TINY["tiny stage 2"]
    gpu.CLIENTS = (1, 2)  # type: ignore[assignment]
    found = {"training": gpu.training_case(folder, case, 0.0), "serving": gpu.serving_case(folder, case, 0.0, 3)}
    (folder / "found.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_it_runs_in_small(tmp_path: Path) -> None:
    assert finish(start(measure, tmp_path)) == [0]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["training"]["loss"] == pytest.approx(found["training"]["their_loss"], rel=1e-5)
    assert found["training"]["flops_s"] > 0 and found["training"]["planned"] > 0
    assert all(row["tokens_s"] > 0 for row in found["serving"]["clients"].values())
    text = gpu.page({"tiny": found["training"], "serving": found["serving"]}, ["7B (no time left)"], 1.0)
    assert "| tiny | " in text and "| 2 | " in text and "Left out: 7B (no time left)." in text
