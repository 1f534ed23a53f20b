"""Tensors without numbers: whatever origin they claim for an element, with numbers the element is the same one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmllm.certificates.unknown import UNKNOWN, ZERO, RefusedError, Unknown

MASK = torch.tensor([[True, False, True, False]])
PLACES = torch.tensor([2, 0])


def written(x: Tensor) -> Tensor:
    made = x.new_zeros(x.shape)
    made[:, 1:3] = x[:, :2]
    made[:, 0].add_(1)
    return made


def padded(x: Tensor) -> Tensor:
    rows = x.new_empty(2, 6, x.shape[-1])
    rows[0, 2:] = x[0]
    rows[1].fill_(0)
    return rows


DONE: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "chosen by truth": (6, lambda x: torch.where(MASK[..., None], x, x * 2)),
    "reshaped and back": (12, lambda x: x.flatten(0, 1).T.T.view(1, 4, 3)),
    "heads apart": (12, lambda x: x.unflatten(-1, (3, 1)).transpose(1, 2).flatten(2)),
    "some positions": (6, lambda x: x[:, PLACES]),
    "put elsewhere": (6, lambda x: (x * 2).index_copy(1, PLACES, x[:, :2])),
    "added at places": (6, lambda x: x.index_add(1, PLACES, x[:, :2] + 1)),
    "zeros added": (12, lambda x: x + torch.zeros(3)),
    "joined": (12, lambda x: torch.cat([x, x * 3], dim=1)),
    "to a wider type and back": (12, lambda x: x.double().float()),
    "to a narrower type and back": (0, lambda x: x.bfloat16().float()),
    "written into": (6, written),
    "rows of their own": (12, padded),
    "by truth of numbers": (0, lambda x: torch.where(x > 0, x, x * 2)),
    "sorted": (0, lambda x: x.sort(dim=1).values),
    "gathered where numbers say": (0, lambda x: x.gather(1, x.argsort(dim=1))),
    "a product": (0, lambda x: x @ torch.eye(3)),
    "expanded": (24, lambda x: x.expand(2, 4, 3).clone()),
}


@pytest.mark.parametrize("name", DONE)
def test_origins_are_true(name: str) -> None:
    known, run = DONE[name]
    numbers = torch.randn(1, 4, 3)
    given = Unknown.like(numbers).marked()
    first = int(given.origins.min())
    found, real = run(given), run(numbers)
    assert isinstance(found, Unknown) and found.shape == real.shape and found.dtype == real.dtype
    copied = found.origins >= first
    assert int(copied.sum()) == known
    assert torch.equal(real[copied], numbers.flatten()[found.origins[copied] - first])
    assert not real[found.origins == ZERO].any()
    assert set(found.origins[~copied].tolist()) <= {UNKNOWN, ZERO}


REFUSED: dict[str, Callable[[Tensor], object]] = {
    "a branch": lambda x: bool(x.any()),
    "a number": lambda x: x[0, 0, 0].item(),
    "places": lambda x: (x > 0).nonzero(),
    "an index by truth": lambda x: x[x > 0],
    "written into what is kept": lambda x: torch.zeros(1, 4, 3).copy_(x),
    "comparison": lambda x: torch.equal(x, x * 2),
}


@pytest.mark.parametrize("name", REFUSED)
def test_numbers_cannot_be_asked_for(name: str) -> None:
    with pytest.raises(RefusedError):
        REFUSED[name](Unknown.like(torch.zeros(1, 4, 3)))


@pytest.mark.parametrize("ask", [Tensor.tolist, Tensor.numpy])
def test_nor_taken_past_torch(ask: Callable[[Tensor], object]) -> None:
    with pytest.raises(RuntimeError, match="not supported for tensor subclasses"):
        ask(Unknown.like(torch.zeros(2)))
