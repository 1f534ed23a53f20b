"""Adapters inside encoders train alike under ZeRO 0, 2 and 3 on two ranks, whichever rank has media of an encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.adapted import ADAPTERS
from tests.support.two_ranks import two_ranks


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_zero_stage_gives_the_same_losses(tmp_path: Path) -> None:
    found = two_ranks("tests.distributed.encoder_adapters_rank", tmp_path, 550)
    assert list(found) == ADAPTERS
    for kind, (plain, *sharded) in found.items():
        assert plain[3] < plain[0], kind
        for losses in sharded:  # the sums of running statistics behind the losses are near 0
            assert losses == pytest.approx(plain, rel=1e-4, abs=2e-3), kind
            assert losses[:4] == pytest.approx(plain[:4], rel=1e-4), kind
