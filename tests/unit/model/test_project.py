"""What a connector says of items that differ in size: once for each grid or all at once, padding never heard."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from mmllm.connectors.base import DeepFusion, Projector, SeveralEncoders
from mmllm.connectors.deep_fusion.deepstack import DeepstackConnector
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.errors import SampleError
from mmllm.hooks import ForwardContext
from mmllm.hooks.passes import text_context
from mmllm.model.project import project
from mmllm.types import Features, Grid
from tests.support.three_senses import Ragged

DIM, WIDE = 6, 10


class Noting(MlpConnector):
    """Notes what it is asked."""

    reads_text = True

    def __init__(self) -> None:
        super().__init__(dim=DIM, llm_dim=WIDE)
        self.asked: list[tuple[Features, ForwardContext | None]] = []

    def forward(self, features: Features, ctx: ForwardContext | None = None) -> Tensor:
        """As the MLP does."""
        self.asked.append((features, ctx))
        return super().forward(features)


class Keeping(DeepFusion):
    """Gives no tokens and remembers the features."""

    def __init__(self) -> None:
        super().__init__(dim=DIM, llm_dim=WIDE)
        self.weight = torch.nn.Parameter(torch.ones(1))

    def remember(self, features: Features) -> Tensor:
        """The features themselves."""
        return features.concatenated()


def context() -> ForwardContext:
    """Of a pass over four tokens of text."""
    return text_context(torch.arange(4), torch.tensor([0, 4], dtype=torch.int32))


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
    ctx = context()
    tokens, counts = project(connector, [features], ctx)
    assert counts == [6, 2, 6, 4, 2] and tokens.shape == (20, WIDE)
    asked = [(one.grid, one.extras["number"].tolist()) for one, _ in connector.asked]
    assert asked == [((3, 2), [0, 2]), ((1, 2), [1, 4]), ((2, 2), [3])]
    for one, given in connector.asked:
        assert one.mask.all() and one.grids is None and given is ctx
        assert one.layers[-1].shape[1] == one.mask.shape[1] == 2 * one.grid[0]
    for number, some in enumerate(tokens.split(counts)):
        alone = features.only(torch.tensor([number]), features.item_grids()[number])
        torch.testing.assert_close(some, connector(alone)[0])


@pytest.mark.parametrize("ragged", [True, False])
def test_equal_items_are_one_question(ragged: bool) -> None:
    connector = Noting()
    tokens, counts = project(connector, [features_of(2, 2, ragged=ragged)], context())
    assert len(connector.asked) == 1 and counts == [4, 4]
    torch.testing.assert_close(tokens, connector(features_of(2, 2, ragged=False)).flatten(0, 1))


def test_a_ragged_connector_gets_everything_and_its_padding_is_cut() -> None:
    connector = Ragged(dim=DIM, llm_dim=WIDE)
    features = features_of(3, 1, 2)
    tokens, counts = project(connector, [features], context())
    assert counts == [3, 1, 2] and tokens.shape == (6, WIDE) and tokens.abs().max() < 1e3
    for number, some in enumerate(tokens.split(counts)):
        alone = features.only(torch.tensor([number]), features.item_grids()[number])
        torch.testing.assert_close(some, connector(alone)[0])
    same = features_of(2, 2, ragged=False)
    tokens, counts = project(connector, [same], context())
    torch.testing.assert_close(tokens, connector(same).flatten(0, 1))
    assert counts == [2, 2]


def test_gradients_reach_every_item_and_no_padding() -> None:
    connector, features = Noting(), features_of(3, 1, 2)
    layer = features.layers[-1].requires_grad_()
    tokens, _ = project(connector, [features], context())
    tokens.square().sum().backward()
    assert layer.grad is not None
    assert layer.grad[features.mask].abs().sum(dim=-1).min() > 0 and not layer.grad[~features.mask].any()


def test_what_is_read_inside_the_llm_must_be_of_one_size() -> None:
    sentence = (
        r"connector Keeping reads its items inside the LLM .* \(3, 2\), \(1, 2\); give the encoder a fixed length"
    )
    with pytest.raises(SampleError, match=sentence):
        project(Keeping(), [features_of(3, 1)], context())
    connector, ctx, same = Keeping().bind("image"), context(), features_of(3, 3)
    tokens, counts = project(connector, [same], ctx)
    assert tokens.shape == (0, WIDE) and counts == [0, 0]
    assert torch.equal(connector.remembered(ctx), same.concatenated()) and list(ctx.media) == ["image"]


class Silent(Projector):
    """Gives no tokens."""

    def out_grid(self, grid: Sequence[int]) -> Grid:
        """None."""
        return (0,)

    def forward(self, features: Features) -> Tensor:
        """float[N, 0, llm_dim]."""
        return features.mask.new_zeros(len(features.mask), 0, self.llm_dim, dtype=torch.float32)


def test_what_joins_sizes_remembers_each_item_as_alone() -> None:
    """DeepStack's stacks of pictures of unlike size, in the order of the items, with their gradients."""
    connector = DeepstackConnector(dim=DIM, llm_dim=WIDE, factor=1).bind("image")
    features = features_of(3, 1, 3)

    def stacks_of(given: Features) -> tuple[Tensor, Tensor]:
        ctx = context()
        tokens, _ = project(connector, [given], ctx)
        (stack,) = ctx.media["image"]
        return tokens, stack.flatten(0, 1)

    def summed(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        tokens, stacks = (torch.cat([part[number] for part in parts]) for number in range(2))
        connector.zero_grad()
        (tokens.square().sum() + stacks.exp().sum()).backward()
        return tokens.detach(), stacks.detach(), connector.mlp[0].weight.grad.clone()

    together = summed([stacks_of(features)])
    grids = features.item_grids()
    alone = summed([stacks_of(features.only(torch.tensor([n]), grids[n])) for n in range(3)])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_a_connector_may_say_nothing() -> None:
    tokens, counts = project(Silent(dim=DIM, llm_dim=WIDE), [features_of(3, 1)], context())
    assert tokens.shape == (0, WIDE) and counts == [0, 0]


class Pair(SeveralEncoders, Projector):
    """Adds the means of two encoders' features."""

    def out_grid(self, *grids: Sequence[int]) -> Grid:
        """One token."""
        return (1, 1)

    def forward(self, *features: Features) -> Tensor:
        """float[N, 1, dim]."""
        return sum(one.concatenated().mean(dim=1, keepdim=True) for one in features)  # type: ignore[return-value]


def test_several_encoders_are_grouped_by_all_their_grids() -> None:
    one, other = features_of(3, 1, 3), features_of(1, 1, 2)
    tokens, counts = project(Pair(dim=DIM, llm_dim=DIM), [one, other], context())
    assert counts == [1, 1, 1] and tokens.abs().max() < 1e3, "padding was heard"
    for number in range(3):
        alone = [f.only(torch.tensor([number]), f.item_grids()[number]) for f in (one, other)]
        torch.testing.assert_close(tokens[number : number + 1], Pair(dim=DIM, llm_dim=DIM)(*alone)[0])
