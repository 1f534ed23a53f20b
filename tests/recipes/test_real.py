"""The recipes of real parts on what ``python -m mmllm.real fetch`` wrote: they check, and 20 steps of training learn.

Needs the fetched folder in ``MMLLM_REAL_PARTS`` and easy_vqa/ and fsdd/ in ``MMLLM_TEST_DATA``; minutes on one core.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mmllm.cli import main
from mmllm.real.fetch import RECEIPT, is_whole
from mmllm.real.sources import PARTS
from mmllm.recipe.files import folder

PARTS_FOLDER, DATA = (Path(os.environ.get(name, "/nowhere")) for name in ("MMLLM_REAL_PARTS", "MMLLM_TEST_DATA"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not PARTS_FOLDER.is_dir(), reason="MMLLM_REAL_PARTS names no folder of real parts"),
]


@pytest.mark.parametrize("part", PARTS)
def test_the_fetched_folder_is_whole_and_was_compared(part: str) -> None:
    found = PARTS_FOLDER / PARTS[part].folder
    assert is_whole(found, PARTS[part])
    compared = " ".join(json.loads((found / RECEIPT).read_text())["compared"])
    assert "same greedy" in compared or "equal" in compared


@pytest.mark.parametrize(("name", "data"), [("see", "easy_vqa"), ("hear", "fsdd")])
def test_twenty_steps_learn(name: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (DATA / data).is_dir():
        pytest.skip(f"MMLLM_TEST_DATA has no {data}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMLLM_CACHE", str(tmp_path / "cache"))
    Path("data/real/data").mkdir(parents=True)
    for part in PARTS.values():
        Path("data/real", part.folder).symlink_to((PARTS_FOLDER / part.folder).resolve())
    Path("data/real/data", data).symlink_to((DATA / data).resolve())
    recipe = str(folder() / "real" / f"{name}.yaml")
    assert main(["check", recipe]) == 0
    assert (
        main(
            [
                "train",
                recipe,
                "stages.learn.steps=20",
                "stages.learn.batch=2",
                "stages.learn.log_every=1",
                "--out",
                "runs/real",
            ]
        )
        == 0
    )
    log = Path("runs/real/metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, log) if "loss" in row]
    assert len(losses) == 20
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]
