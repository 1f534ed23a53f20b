"""Two ranks on CPU: every ZeRO stage, any micro-batch and any number of ranks give the same training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.training import STAGES, finish, metrics, sharing, start, tiny_recipe, train_here

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
    "budget": (*PLAIN, "stages.align.tokens=70", "stages.instruct.tokens=70", *_zero(2)),
}
# a whole epoch in one step: the samples of a step are then the same whether they were brought together or not
SIZES = {"align": 12, "instruct": 8}
WHOLE = (*PLAIN, *(f"stages.{name}.{word}" for name, size in SIZES.items() for word in ("steps=3", f"batch={size}")))
ONE_RANK = {"whole": PLAIN, "halves": (*PLAIN, *_micro(2)), "single": (*PLAIN, *_micro(1)), "sparse": SPARSE}


def shared_runs(folder: Path) -> dict[str, Sequence[str]]:
    """Stages whose conversations are about three pictures: each alone, sharing their beginning, and within a budget."""
    alone, shared = (*WHOLE, *sharing(folder)), (*WHOLE, *sharing(folder, *STAGES))
    budget = tuple(f"stages.{name}.tokens=90" for name in STAGES)
    return {"alone": alone, "shared": shared, "shared zero3": (*shared, *_zero(3), *budget)}


def train_all(recipe: Path, out: Path, variants: dict[str, Sequence[str]]) -> None:
    for name, overrides in variants.items():
        train_here(recipe, out / name, overrides)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Name of a variant, with the number of ranks before it -> its lines of metrics."""
    folder = tmp_path_factory.mktemp("ranks")
    recipe = tiny_recipe(folder)
    more = shared_runs(folder)
    one, two = {**ONE_RANK, **dict(list(more.items())[:2])}, {**TWO_RANKS, "shared zero3": more["shared zero3"]}
    assert finish(start(train_all, recipe, folder / "1", one)) == [0]
    assert finish(start(train_all, recipe, folder / "2", two, ranks=2)) == [0, 0]
    names = [(1, name) for name in one] + [(2, name) for name in two]
    return {f"{ranks} {name}": metrics(folder / str(ranks) / name) for ranks, name in names}


def _assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    exact = ("stage", "step", "labels", "tokens", "samples", "lr", "bad")
    assert [[row[key] for key in exact] for row in found] == [[row[key] for key in exact] for row in expected]
    for key, tolerance in (("loss", 2e-5), ("grad_norm", 2e-3)):
        assert [row[key] for row in found] == pytest.approx([row[key] for row in expected], rel=tolerance), key


@pytest.mark.parametrize("zero", range(4))
def test_zero_stages_agree(runs: dict[str, list[dict[str, Any]]], zero: int) -> None:
    _assert_same(runs[f"2 zero{zero}"], runs["1 whole"])


@pytest.mark.parametrize("name", ["1 halves", "1 single", "2 single", "2 budget"])
def test_micro_batch_accumulation_and_ranks_do_not_matter(runs: dict[str, list[dict[str, Any]]], name: str) -> None:
    _assert_same(runs[name], runs["1 whole"])


@pytest.mark.parametrize("zero", range(4))
def test_ranks_without_media_or_samples(runs: dict[str, list[dict[str, Any]]], zero: int) -> None:
    found = runs[f"2 sparse{zero}"]
    assert [row["samples"] for row in found if row["stage"] == "align"] == [8, 4]
    _assert_same(found, runs["1 sparse"])


@pytest.mark.parametrize("name", ["1 shared", "2 shared zero3"])
def test_sharing_a_beginning_trains_as_each_alone(runs: dict[str, list[dict[str, Any]]], name: str) -> None:
    """Fewer tokens, the same samples, labels, losses and gradients; also over ranks that hold unlike trees."""
    found, alone = runs[name], runs["1 alone"]
    # within a budget some trees are parted
    share = 0.75 if name == "1 shared" else 1.0
    assert all(row["tokens"] < share * other["tokens"] for row, other in zip(found, alone, strict=True))
    _assert_same([{**row, "tokens": other["tokens"]} for row, other in zip(found, alone, strict=True)], alone)
