"""A gated MLP behind pixel shuffle, as Aya Vision has it: half of the channels, activated, times the other half."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmllm.connectors.projectors.pixel_shuffle import PixelShuffleConnector
from mmllm.errors import MmllmError
from mmllm.types import Features


def test_the_second_half_is_the_gate() -> None:
    torch.manual_seed(0)
    made = PixelShuffleConnector(dim=3, llm_dim=5, width=8, gated=True, activation="silu", eps=1e-6)
    features = Features({-1: torch.randn(2, 16, 3)}, torch.ones(2, 16, dtype=torch.bool), (4, 4))
    norm, first, _, last = made.mlp
    assert isinstance(norm, nn.LayerNorm) and isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    assert (norm.eps, first.out_features, last.in_features) == (1e-6, 8, 4)
    wide = first(norm(made.shuffle(features)))
    torch.testing.assert_close(made(features), last(wide[..., :4] * functional.silu(wide[..., 4:])))


@pytest.mark.parametrize("words", [{"depth": 1}, {"width": 7}])
def test_what_cannot_be_gated(words: dict[str, Any]) -> None:
    with pytest.raises(MmllmError, match=r"gated: needs a depth of at least 2 .* and an even width"):
        PixelShuffleConnector(dim=3, llm_dim=6, gated=True, **words)
