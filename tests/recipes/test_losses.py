"""No change of the code changes a number: every miniature recipe still has the losses written down before, bit for bit.

The last bits depend on the machine. Where torch, its kernels and the processor are those of ``golden/losses.json``,
every loss must be equal; elsewhere the first ones must be close. ``python -m tests.recipes.test_losses write [NAME
...]`` writes the losses of today down, of all recipes or of some, with the real data of ``MMLLM_TEST_DATA``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.short_runs import (
    LATER_STEPS,
    RECIPES,
    STEPS,
    Losses,
    digest,
    losses,
    machine,
    overrides,
    real_folders,
    train_short,
    write_data,
)
from tests.support.training import finish, start

GOLDEN = Path(__file__).parents[1] / "reference" / "golden" / "losses.json"
REAL = os.environ.get("MMLLM_TEST_DATA")
CLOSE, FIRST = 1e-3, 5
"""On another machine: relative difference of the first so many losses."""


def short_losses(name: str, home: Path, out: Path, most: int | None = None) -> Losses:
    """Losses of a recipe, trained in a process of its own; ``home`` holds the miniature data; ``most``: steps."""
    words = overrides(name, home, None if REAL is None else Path(REAL))
    assert finish(start(train_short, name, out, words, most)) == [0]
    return losses(out)


def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mini")
    write_data(folder)
    return folder


def test_every_miniature_recipe_has_its_losses_written_down() -> None:
    assert list(golden()["recipes"]) == list(RECIPES)


def test_digests_belong_to_the_losses() -> None:
    for name, entry in golden()["recipes"].items():
        assert digest(entry["losses"]) == entry["sha256"], name


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_losses_are_what_they_were(name: str, home: Path, tmp_path: Path) -> None:
    if real_folders(name) and REAL is None:
        pytest.skip("MMLLM_TEST_DATA is not set")
    stored = golden()
    then = stored["recipes"][name]
    here = machine() == stored["machine"]
    now = short_losses(name, home, tmp_path / "run", None if here else FIRST)
    if here:
        assert [len(stage["loss"]) for stage in now.values()] == [STEPS] + [LATER_STEPS] * (len(now) - 1)
        assert now == then["losses"]
        assert digest(now) == then["sha256"]
        return
    stage = next(iter(then["losses"]))
    assert len(now[stage]["loss"]) >= FIRST
    for word, values in then["losses"][stage].items():
        assert numbers(now[stage][word]) == pytest.approx(numbers(values), rel=CLOSE), f"{word} of stage {stage}"


def numbers(values: list[str]) -> list[float]:
    """The first losses as numbers."""
    return [float.fromhex(value) for value in values[:FIRST]]


def write(names: list[str]) -> None:
    """Replaces the losses of these recipes (all: none named), one line each; others stay and must be this machine's."""
    stored: dict[str, Any] = golden() if names else {"machine": machine(), "recipes": {}}
    if stored["machine"] != machine():
        raise SystemExit(f"the other recipes' losses are of another machine, {stored['machine']}: write all of them")
    with TemporaryDirectory() as folder:
        write_data(Path(folder) / "mini")
        for name in names or RECIPES:
            found = short_losses(name, Path(folder) / "mini", Path(folder) / name)
            stored["recipes"][name] = {"sha256": digest(found), "losses": found}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(stored['recipes'][name])}" for name in RECIPES)
    GOLDEN.write_text(
        f'{{"machine": {json.dumps(stored["machine"])},\n"recipes": {{\n{lines}\n}}}}\n', encoding="utf-8"
    )


if __name__ == "__main__":
    command, *chosen = sys.argv[1:]
    assert command == "write"
    write(chosen)
