"""Two ranks on CPU: every ZeRO stage, any micro-batch and any number of ranks give the same training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.training import finish, metrics, start, tiny_recipe, train_here

pytestmark = pytest.mark.slow

PLAIN = ("connectors.lora.dropout=0.0",)
# one step of 8 conversations, then one of 4: with single-conversation micro-batches some ranks get nothing or only text
SPARSE = (*PLAIN, *(f"stages.align.{word}" for word in ("steps=null", "epochs=1", "batch=8", "micro_batch=1")))


def _zero(zero: int) -> tuple[str, ...]:
    return (f"stages.align.zero={zero}", f"stages.instruct.zero={zero}")


def _micro(micro: int) -> tuple[str, ...]:
    return (f"stages.align.micro_batch={micro}", f"stages.instruct.micro_batch={micro}")


TWO_RANKS = {
    **{f"zero{zero}": (*PLAIN, *_zero(zero)) for zero in range(4)},
    **{f"sparse{zero}": (*SPARSE, *_zero(zero)) for zero in range(4)},
    "single": (*PLAIN, *_micro(1), *_zero(2)),
}
ONE_RANK = {"whole": PLAIN, "halves": (*PLAIN, *_micro(2)), "single": (*PLAIN, *_micro(1)), "sparse": SPARSE}


def train_all(recipe: Path, out: Path, variants: dict[str, Sequence[str]]) -> None:
    for name, overrides in variants.items():
        train_here(recipe, out / name, overrides)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Name of a variant, with the number of ranks before it -> its lines of metrics."""
    folder = tmp_path_factory.mktemp("ranks")
    recipe = tiny_recipe(folder)
    assert finish(start(train_all, recipe, folder / "1", ONE_RANK)) == [0]
    assert finish(start(train_all, recipe, folder / "2", TWO_RANKS, ranks=2)) == [0, 0]
    names = [(1, name) for name in ONE_RANK] + [(2, name) for name in TWO_RANKS]
    return {f"{ranks} {name}": metrics(folder / str(ranks) / name) for ranks, name in names}


def _assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    exact = ("stage", "step", "labels", "tokens", "samples", "lr", "bad")
    assert [[row[key] for key in exact] for row in found] == [[row[key] for key in exact] for row in expected]
    for key, tolerance in (("loss", 2e-5), ("grad_norm", 2e-3)):
        assert [row[key] for row in found] == pytest.approx([row[key] for row in expected], rel=tolerance), key


@pytest.mark.parametrize("zero", range(4))
def test_zero_stages_agree(runs: dict[str, list[dict[str, Any]]], zero: int) -> None:
    _assert_same(runs[f"2 zero{zero}"], runs["1 whole"])


@pytest.mark.parametrize("name", ["1 halves", "1 single", "2 single"])
def test_micro_batch_accumulation_and_ranks_do_not_matter(runs: dict[str, list[dict[str, Any]]], name: str) -> None:
    _assert_same(runs[name], runs["1 whole"])


@pytest.mark.parametrize("zero", range(4))
def test_ranks_without_media_or_samples(runs: dict[str, list[dict[str, Any]]], zero: int) -> None:
    found = runs[f"2 sparse{zero}"]
    assert [row["samples"] for row in found if row["stage"] == "align"] == [8, 4]
    _assert_same(found, runs["1 sparse"])
