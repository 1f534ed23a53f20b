"""Connectors of clips train alike with ZeRO 0 and 3 on two ranks, whichever of them has clips of whatever length."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.two_ranks import two_ranks


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_zero_stage_gives_the_same_losses(tmp_path: Path) -> None:
    """The loss of the first step's conversations falls."""
    found = two_ranks("tests.distributed.clips_rank", tmp_path, 280)
    assert list(found) == ["iva", "temporal_aligner", "temporal_conv"]
    for case, (plain, sharded) in ((name, rows.values()) for name, rows in found.items()):
        assert plain[-1] < plain[0], case
        assert sharded == pytest.approx(plain, rel=1e-4), case
