"""Position ids: a pure function of a conversation's length and of where its media lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmllm.batches.positions import positions
from mmllm.batches.sample import MediaSpan

SPANS = [MediaSpan(2, 4, "image", 0, (2, 2)), MediaSpan(9, 6, "video", 0, (1, 2, 3))]


def test_sequential_positions_count_text_and_media_alike() -> None:
    found = positions(SPANS, 20)
    assert found.shape == (1, 20) and torch.equal(found[0], torch.arange(20))
    assert positions([], 0).shape == (1, 0)


def test_a_scheme_that_is_not_known_is_refused() -> None:
    unknown: Any = "spiral"
    with pytest.raises(ValueError, match="position scheme 'spiral' is unknown; known: sequential"):
        positions(SPANS, 20, unknown)
