"""Bidirectional stretches through a kernel over rows of unequal lengths, which GPUs have: written out here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmllm.llms.attention import _per_conversation, _varlen
from mmllm.llms.packing import Packing
from mmllm.llms.scoring import Scoring
from mmllm.types import Bidirectional, Segment

BOUNDS = torch.tensor([0, 13, 17, 29], dtype=torch.int32)
STRETCHES = (Bidirectional(2, 7), Bidirectional(7, 12), Bidirectional(17, 26, windowed=False))
TREE = (Segment(0, 9), Segment(9, 13, (0, 9)), Segment(13, 17, (0, 9)), Segment(17, 29))
SHARED = (Bidirectional(2, 7), Bidirectional(17, 26, windowed=False))


def kernel(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, **words: Any) -> Tensor:
    """``torch.nn.attention.varlen.varlen_attn`` as its documentation has it, row after row."""
    out = []
    left, right = words["window_size"]
    for row in range(len(cu_q) - 1):
        (a, b), (c, d) = cu_q[row : row + 2].tolist(), cu_k[row : row + 2].tolist()
        assert b - a <= max_q and d - c <= max_k
        # the last query lies at the last key
        behind = (torch.arange(b - a)[:, None] + (d - c) - (b - a)) - torch.arange(d - c)
        seen = (behind <= (d - c if left < 0 else left)) & (-behind <= (d - c if right < 0 else right))
        one = [states.transpose(0, 1)[None] for states in (q[a:b], k[c:d], v[c:d])]
        found = torch.nn.functional.scaled_dot_product_attention(
            *one, attn_mask=seen, scale=words["scale"], enable_gqa=words["enable_gqa"]
        )
        out.append(found[0].transpose(0, 1))
    return torch.cat(out)


@pytest.mark.parametrize("window", [None, 3, 6])
@pytest.mark.parametrize(("segments", "stretches"), [(None, STRETCHES), (TREE, SHARED), (TREE, ()), (None, ())])
def test_the_kernel_of_gpus_attends_as_calls_one_by_one(
    window: int | None, segments: Any, stretches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    torch.manual_seed(0)
    bounds = torch.tensor([0, 17, 29], dtype=torch.int32) if segments else BOUNDS
    query = torch.randn(1, 4, 29, 8, requires_grad=True)
    key, value = (torch.randn(1, 2, 29, 8, requires_grad=True) for _ in range(2))
    packing, scoring = Packing.of(bounds, segments, None, stretches), Scoring(0.3, window=window)
    results = []
    for attend in (_varlen, _per_conversation):
        out = attend(query, key, value, scoring, packing)
        gradients = torch.autograd.grad(out.square().sum(), (query, key, value))
        results.append((out, *gradients))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)
