"""A projector that breaks one rule of its contract is told which; sound ones of many kinds pass."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmllm.connectors.base import Projector, SeveralEncoders
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.connectors.projectors.pool import PoolConnector
from mmllm.connectors.projectors.window_resampler import WindowResamplerConnector
from mmllm.errors import MmllmError
from mmllm.testing import check_projector
from mmllm.types import Features, Grid


class Sound(Projector):
    """One linear layer, a token for each patch; what is broken derives from it."""

    def __init__(self, *, dim: int, llm_dim: int) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        self.linear = nn.Linear(dim, llm_dim)

    def out_grid(self, grid: Grid) -> Grid:
        return tuple(grid)

    def forward(self, features: Features) -> Tensor:
        return self.linear(features.concatenated())


class StartsAtZero(Sound):
    def __init__(self, **words: int) -> None:
        super().__init__(**words)
        self.output = nn.Linear(self.llm_dim, self.llm_dim)
        nn.init.zeros_(self.output.weight)

    def forward(self, features: Features) -> Tensor:
        return self.output(super().forward(features))


class Earlier(Sound):
    """Each token is of its patch and those before it."""

    def forward(self, features: Features) -> Tensor:
        return super().forward(features).cumsum(dim=1)


class OverTime(Sound):
    """Frames are averaged, so time is gone."""

    def out_grid(self, grid: Grid) -> Grid:
        return tuple(grid[-2:])

    def forward(self, features: Features) -> Tensor:
        out = super().forward(features)
        return out.unflatten(1, (-1, prod(features.grid[-2:]))).mean(dim=1)


class Both(Projector, SeveralEncoders):
    """Two encoders of pictures, one after the other."""

    def __init__(self, *, dim: int, llm_dim: int) -> None:
        super().__init__(dim=dim, llm_dim=llm_dim)
        self.first, self.second = (nn.Linear(dim // 2, llm_dim) for _ in range(2))

    def out_grid(self, one: Grid, other: Grid) -> Grid:
        if len(one) > 2:
            raise MmllmError("pictures only")
        return (1, prod(one) + prod(other))

    def forward(self, one: Features, other: Features) -> Tensor:
        return torch.cat([self.first(one.concatenated()), self.second(other.concatenated())], dim=1)


def test_sound_projectors_pass() -> None:
    for kind in (Sound, MlpConnector, StartsAtZero, Earlier, OverTime):
        check_projector(kind)
    check_projector(partial(PoolConnector, grid=[2, 2]), grids=[(4, 6)])
    check_projector(partial(PoolConnector, stride=[2]), grids=[(7,)], layers=[3, -1])
    check_projector(partial(WindowResamplerConnector, window=3, queries=2, heads=2), grids=[(3, 2, 2)])
    check_projector(Both, grids=[(4, 4), (2, 2)])


class MiscountsTokens(Sound):
    def out_grid(self, grid: Grid) -> Grid:
        return (1, prod(grid) - 1)


class GivesALists(Sound):
    def out_grid(self, grid: Grid) -> Any:
        return list(grid)


class MixesItems(Sound):
    def forward(self, features: Features) -> Tensor:
        out = super().forward(features)
        return out - out.mean(dim=0)


class ReadsPadding(Sound):
    accepts_padding = True

    def forward(self, features: Features) -> Tensor:
        out = super().forward(features)
        return out + out.mean(dim=1, keepdim=True)


class HasSpareWeights(Sound):
    def __init__(self, **words: int) -> None:
        super().__init__(**words)
        self.spare = nn.Linear(2, 2)


class DropsPatches(Sound):
    def out_grid(self, grid: Grid) -> Grid:
        return (1, prod(grid) - 1)

    def forward(self, features: Features) -> Tensor:
        return super().forward(features)[:, :-1]


class DropsOut(Sound):
    def forward(self, features: Features) -> Tensor:
        return nn.functional.dropout(super().forward(features), 0.5, self.training)


class StaysInFloat(Sound):
    def forward(self, features: Features) -> Tensor:
        return super().forward(features).float()


class RemembersItsLoss(Sound):
    loss: Tensor | None = None

    def forward(self, features: Features) -> Tensor:
        out = super().forward(features)
        self.loss = out.square().mean()
        return out

    def extra_loss(self, ctx: Any) -> Tensor | None:
        return self.loss


class ColumnsFirst(Sound):
    def forward(self, features: Features) -> Tensor:
        maps = super().forward(features).unflatten(1, features.grid)
        return maps.transpose(-2, -3).flatten(1, -2)


class Backwards(Sound):
    def forward(self, features: Features) -> Tensor:
        return super().forward(features).flip(1)


class FramesInside(Sound):
    """Tokens of one patch in all frames stand together."""

    def forward(self, features: Features) -> Tensor:
        out = super().forward(features)
        return out.unflatten(1, (-1, prod(features.grid[-2:]))).transpose(1, 2).flatten(1, 2)


class QueriesFirst(WindowResamplerConnector):
    """The first query of every window, then the second ones."""

    def forward(self, features: Features) -> Tensor:
        return super().forward(features).unflatten(1, (-1, self.n_queries)).transpose(1, 2).flatten(1, 2)


class LosesTime(Sound):
    def out_grid(self, grid: Grid) -> Grid:
        return (prod(grid[:-1]), grid[-1])


BROKEN = {
    "as many as ``forward`` gives": MiscountsTokens,
    "expected 1 to 3 whole numbers": GivesALists,
    "do not depend on the others": MixesItems,
    "is not read": ReadsPadding,
    "no gradient for spare.weight, spare.bias": HasSpareWeights,
    "no gradient at [item, patch] [[0, 15]": DropsPatches,
    "train and in eval mode": DropsOut,
    "Found: torch.float32": StaysInFloat,
    "extra_loss of a new pass": RemembersItsLoss,
    "along axis 0 of the patches (4, 4)": ColumnsFirst,
    "are of regions": Backwards,
    "axis 0 of the patches (4, 4, 4)": FramesInside,
    "has one step in time": LosesTime,
}
"""What the error says -> projector."""


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_projector_is_told_what_is_wrong(text: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_projector(BROKEN[text])
    message = str(caught.value)
    assert text in message and "Mend: " in message
    assert message.startswith(f"{BROKEN[text].__name__} breaks ")


def test_what_is_no_projector_is_told_so() -> None:
    with pytest.raises(AssertionError, match=r"Linear does not derive from mmllm\.connectors\.base\.Projector"):
        check_projector(lambda dim, llm_dim: nn.Linear(dim, llm_dim))  # type: ignore[arg-type,return-value]


def test_windows_in_another_order() -> None:
    words = {"window": 3, "queries": 2, "heads": 2}
    with pytest.raises(AssertionError, match=r"are no region of \(3, 1, 2\)"):
        check_projector(partial(QueriesFirst, **words), grids=[(7,)])


def test_an_error_in_the_part_itself_names_the_rule() -> None:
    class Fails(Sound):
        def forward(self, features: Features) -> Tensor:
            raise KeyError("x")

    with pytest.raises(AssertionError) as caught:
        check_projector(Fails)
    assert "* ``out_grid`` tells before any forward" in str(caught.value) and "Found: KeyError: 'x'" in str(
        caught.value
    )
    assert isinstance(caught.value.__cause__, KeyError)
