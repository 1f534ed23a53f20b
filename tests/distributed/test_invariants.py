"""No rank hangs another under ZeRO 0, 2 or 3 when only one of them has media, labels or samples; losses are equal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.invariants_rank import CASES, STEPS
from tests.support.two_ranks import two_ranks


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_10_ranks_with_different_kinds_of_batches_finish_with_equal_losses(tmp_path: Path) -> None:
    """Two ranks, four steps: text against media, an empty batch, no labels; every ZeRO stage gives ZeRO 0's losses."""
    losses = two_ranks("tests.distributed.invariants_rank", tmp_path, 450)
    assert set(losses) == set(CASES)
    assert len(losses["zero 0"]) == len(STEPS) and losses["zero 0"][-1] < losses["zero 0"][0]
    for name in CASES:
        assert losses[name] == pytest.approx(losses["zero 0"], rel=1e-5), name
