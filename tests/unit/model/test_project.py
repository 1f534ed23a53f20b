"""What a connector says of items that differ in size: once for each grid or all at once, padding never heard."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from mmllm.connectors.base import Connector
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.errors import SampleError
from mmllm.model.project import project
from mmllm.types import Features
from tests.support.three_senses import Ragged

DIM, WIDE = 6, 10


class Noting(MlpConnector):
    """Notes what it is asked, and keeps a memory where it is told to."""

    def __init__(self, keeps: bool = False) -> None:
        super().__init__(dim=DIM, llm_dim=WIDE)
        self.keeps, self.asked = keeps, []  # type: ignore[var-annotated]

    def forward(self, features: Features, text: Tensor | None = None) -> Tensor:
        """As the MLP does."""
        self.asked.append((features, text))
        if self.keeps:
            self.memory = (features.concatenated(),)
        return super().forward(features)


def features_of(*lengths: int, ragged: bool = True) -> Features:
    """Items of these lengths on planes of 2, padded with numbers that would show; a fact numbers them."""
    most = 2 * max(lengths)
    layer = torch.randn(len(lengths), most, DIM, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(most) < torch.tensor([2 * n for n in lengths])[:, None]
    layer = layer.masked_fill(~mask[..., None], 1e6)
    grids = tuple((n, 2) for n in lengths)
    return Features({-1: layer}, mask, max(grids), grids if ragged else None, {"number": torch.arange(len(lengths))})


def test_a_connector_is_asked_once_for_each_grid_without_padding() -> None:
    connector, features = Noting(), features_of(3, 1, 3, 2, 1)
    text = torch.zeros(4, WIDE)
    tokens, counts = project(connector, features, text)
    assert counts == [6, 2, 6, 4, 2] and tokens.shape == (20, WIDE)
    asked = [(one.grid, one.facts["number"].tolist()) for one, _ in connector.asked]
    assert asked == [((3, 2), [0, 2]), ((1, 2), [1, 4]), ((2, 2), [3])]
    for one, given in connector.asked:
        assert one.mask.all() and one.grids is None and given is text
        assert one.layers[-1].shape[1] == one.mask.shape[1] == 2 * one.grid[0]
    for number, some in enumerate(tokens.split(counts)):
        alone = features.only(torch.tensor([number]), features.item_grids()[number])
        torch.testing.assert_close(some, connector(alone)[0])


@pytest.mark.parametrize("ragged", [True, False])
def test_equal_items_are_one_question(ragged: bool) -> None:
    connector = Noting()
    tokens, counts = project(connector, features_of(2, 2, ragged=ragged), None)
    assert len(connector.asked) == 1 and counts == [4, 4]
    torch.testing.assert_close(tokens, connector(features_of(2, 2, ragged=False)).flatten(0, 1))


def test_a_ragged_connector_gets_everything_and_its_padding_is_cut() -> None:
    connector = Ragged(dim=DIM, llm_dim=WIDE)
    features = features_of(3, 1, 2)
    tokens, counts = project(connector, features, None)
    assert counts == [3, 1, 2] and tokens.shape == (6, WIDE) and tokens.abs().max() < 1e3
    for number, some in enumerate(tokens.split(counts)):
        alone = features.only(torch.tensor([number]), features.item_grids()[number])
        torch.testing.assert_close(some, connector(alone)[0])
    same = features_of(2, 2, ragged=False)
    tokens, counts = project(connector, same, None)
    torch.testing.assert_close(tokens, connector(same).flatten(0, 1))
    assert counts == [2, 2]


def test_gradients_reach_every_item_and_no_padding() -> None:
    connector, features = Noting(), features_of(3, 1, 2)
    layer = features.layers[-1].requires_grad_()
    tokens, _ = project(connector, features, None)
    tokens.square().sum().backward()
    assert layer.grad is not None
    assert layer.grad[features.mask].abs().sum(dim=-1).min() > 0 and not layer.grad[~features.mask].any()


def test_what_is_read_inside_the_llm_must_be_of_one_size() -> None:
    sentence = r"connector Noting reads its items inside the LLM .* \(3, 2\), \(1, 2\); give the encoder a fixed length"
    with pytest.raises(SampleError, match=sentence):
        project(Noting(keeps=True), features_of(3, 1), None)
    project(Noting(keeps=True), features_of(3, 3), None)


class Silent(Connector):
    """Gives no tokens."""

    def tokens(self, grid: Sequence[int]) -> int:
        """None."""
        return 0

    def forward(self, features: Features, text: Tensor | None = None) -> Tensor:
        """float[N, 0, llm_dim]."""
        return features.mask.new_zeros(len(features.mask), 0, self.llm_dim, dtype=torch.float32)


def test_a_connector_may_say_nothing() -> None:
    tokens, counts = project(Silent(dim=DIM, llm_dim=WIDE), features_of(3, 1), None)
    assert tokens.shape == (0, WIDE) and counts == [0, 0]
