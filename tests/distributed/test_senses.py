"""Rows that hold different senses train alike under every ZeRO stage on two ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.two_ranks import two_ranks


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_ranks_with_different_senses_finish_with_equal_losses(tmp_path: Path) -> None:
    """Two ranks, ZeRO 0 to 3: pictures against sounds, clips of many lengths against one, media against nothing."""
    losses = two_ranks("tests.distributed.senses_rank", tmp_path, 300)
    assert list(losses) == ["zero 0", "zero 1", "zero 2", "zero 3", "zero 3, all frozen but one"]
    first = losses["zero 0"]
    assert first[-1] < first[0]
    for name in ("zero 1", "zero 2", "zero 3"):
        assert losses[name] == pytest.approx(first, rel=1e-5), name
    assert losses["zero 3, all frozen but one"][0] == pytest.approx(first[0], rel=1e-5)
