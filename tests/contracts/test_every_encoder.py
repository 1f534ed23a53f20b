"""The contract every encoder of the registry keeps, whatever it loads."""

from __future__ import annotations

import pytest
import torch

from mmllm import registry
from mmllm.testing import check_encoder, tiny_encoder
from mmllm.testing.encoders import MEDIA
from mmllm.testing.tiny.encoders import TINY

NAMES = sorted(registry.table("encoders"))


@pytest.mark.parametrize("name", NAMES)
def test_every_encoder(name: str) -> None:
    assert MEDIA[tiny_encoder(name).modality] is TINY[name].media
    check_encoder(TINY[name].make)


@pytest.mark.parametrize("name", NAMES)
def test_tiny_ones_are_small_have_blocks_and_leave_the_random_state_alone(name: str) -> None:
    before = torch.get_rng_state()
    encoder = tiny_encoder(name)
    assert torch.equal(before, torch.get_rng_state())
    assert sum(p.numel() for p in encoder.parameters()) < 50_000
    one = TINY[name]
    assert not one.numbered or (encoder.n_blocks == 3 if one.has_blocks else not list(encoder.parameters()))
