"""Connectors inside the LLM train alike under ZeRO 0, 2 and 3 on two ranks, whichever rank has media or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.inside_llm_rank import STAGES, STEPS
from tests.support.inside import VARIANTS
from tests.support.two_ranks import two_ranks


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_zero_stage_gives_the_same_losses(tmp_path: Path) -> None:
    """Each connector with one family, going round; the loss of the first step's rows falls."""
    found = two_ranks("tests.distributed.inside_llm_rank", tmp_path, 550)
    assert len(found) == len(VARIANTS)
    assert sum("2" in rows for rows in found.values()) >= len(VARIANTS) / 4
    for case, rows in found.items():
        assert STAGES.keys() - rows.keys() <= {"2"}
        assert rows["0"][-1] < rows["0"][0], case
        for stage in rows:
            assert len(rows[stage]) == len(STEPS) + 1
            assert rows[stage] == pytest.approx(rows["0"], rel=1e-4), (case, stage)
