"""Points, texts, graphs, sounds train alike under ZeRO 0, 2 and 3 on two ranks, whoever is shown which, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.media_rank import STAGES, STEPS
from tests.support.two_ranks import two_ranks


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_zero_stage_gives_the_same_losses(tmp_path: Path) -> None:
    found = two_ranks("tests.distributed.media_rank", tmp_path, 280)
    assert list(found) == [str(stage) for stage in STAGES]
    for stage, row in found.items():
        assert len(row) == len(STEPS) + 1 and row[-1] < row[0]
        assert row == pytest.approx(found["0"], rel=1e-4), stage
