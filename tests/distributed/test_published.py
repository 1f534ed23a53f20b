"""Published models train alike under ZeRO 0, 2 and 3 on two ranks, whichever has pictures, text alone, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.published_rank import CASES, STAGES
from tests.support.two_ranks import two_ranks


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_zero_stage_gives_the_same_losses(tmp_path: Path) -> None:
    found = two_ranks("tests.distributed.published_rank", tmp_path, 280)
    assert list(found) == list(CASES)
    assert sum("2" in rows for rows in found.values()) == -(-len(CASES) // 4)
    for case, rows in found.items():
        assert STAGES.keys() - rows.keys() <= {"2"}
        assert len(rows["0"]) == 4 and rows["0"][-1] < rows["0"][0], case
        for stage in rows:
            assert rows[stage] == pytest.approx(rows["0"], rel=1e-4), (case, stage)
