"""graph_adapter between encoder and LLM against its equations in plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmllm.connectors.deep_fusion.graph_adapter import GraphAdapterConnector
from mmllm.connectors.layers.graph_disjoint import disjoint
from mmllm.connectors.layers.graph_network import _convolutions
from mmllm.errors import MmllmError
from mmllm.types import Features
from tests.support.graphs import GNNS, LLM, PAIRS, adapter, adjacency, features_of, one


def states_of(connector: GraphAdapterConnector, features: Features) -> Tensor:
    """float[nodes, hidden]."""
    return connector.network(disjoint(features))


def tokens(connector: GraphAdapterConnector, features: Features) -> Tensor:
    """float[N, n_tokens, llm_dim], without what the head would read."""
    return connector(features)[0]


def entered(connector: GraphAdapterConnector, x: Tensor) -> Tensor:
    """z0 by its equation."""
    w1, w2 = connector.network.enter[0].weight, connector.network.enter[2].weight
    z = F.silu(x @ w1.T) @ w2.T
    return z / (z.square().mean(-1, keepdim=True) + torch.finfo(z.dtype).eps).sqrt() * connector.network.norm.weight


@torch.no_grad()
def test_sage_is_graphadapters_equation() -> None:
    connector = adapter()
    mean = adjacency(loops=True)
    mean = mean / mean.sum(1, keepdim=True)
    z1 = mean @ entered(connector, one().layers[-1][0])
    z = mean @ F.silu(z1 @ connector.network.between[0].weight.T)
    torch.testing.assert_close(states_of(connector, one()), z, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_gat_is_attention_over_neighbours_and_torch_geometrics_layer() -> None:
    connector = adapter(gnn="gat", layers=1)
    mix = connector.network.mixes[0]
    z0 = entered(connector, one().layers[-1][0])
    heads = (z0 @ mix.lin.weight.T).view(6, 2, 4)
    to, by = (heads * mix.att_dst).sum(-1), (heads * mix.att_src).sum(-1)
    scores = F.leaky_relu(to[:, None] + by[None], 0.2).masked_fill(adjacency(loops=True)[..., None] == 0, -torch.inf)
    expected = torch.einsum("rsh,shd->rhd", scores.softmax(1), heads).flatten(1)
    torch.testing.assert_close(states_of(connector, one()), expected, atol=1e-6, rtol=1e-5)
    own = _convolutions().GATConv(8, 4, 2, bias=False)  # with its own self loops
    own.load_state_dict(mix.state_dict())
    torch.testing.assert_close(own(z0, disjoint(one()).edges), expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_gin_is_an_mlp_of_the_sum() -> None:
    connector = adapter(gnn="gin", layers=1)
    mix = connector.network.mixes[0]
    mix.eps.fill_(0.3)
    z0 = entered(connector, one().layers[-1][0])
    summed = adjacency(loops=True) @ z0 + 1.3 * z0
    expected = F.silu(summed @ mix.nn[0].weight.T) @ mix.nn[2].weight.T
    torch.testing.assert_close(states_of(connector, one()), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_without_a_network_edges_mean_nothing_and_the_weights_are_those_of_sage() -> None:
    connector, sage = adapter(gnn="none"), adapter()
    other = features_of([[(5, 4), (0, 3)]], [6], [0])
    assert torch.equal(tokens(connector, one()), tokens(connector, other))
    assert not torch.allclose(tokens(sage, one()), tokens(sage, other), atol=1e-3)
    assert {n: p.shape for n, p in connector.named_parameters()} == {n: p.shape for n, p in sage.named_parameters()}


@pytest.mark.parametrize("gnn", GNNS)
def test_neighbours_only_does_not_know_the_nodes_own_state(gnn: str) -> None:
    batch = features_of([PAIRS, PAIRS], [6, 6], [0, 3])
    seen = {}
    for alone in (False, True):
        batch.layers[-1].requires_grad_(True).grad = None
        connector = adapter(gnn=gnn, neighbours_only=alone)
        (tokens(connector, batch) * torch.randn(2, 1, LLM, generator=torch.Generator().manual_seed(2))).sum().backward()
        assert batch.layers[-1].grad is not None
        seen[alone] = batch.layers[-1].grad.abs().sum(-1)
    own = torch.tensor([[0], [3]])
    assert (seen[False].gather(1, own) > 0).all() and (seen[True].gather(1, own) == 0).all()
    if gnn != "none":
        assert (seen[True].sum(1) > 0).all()


@torch.no_grad()
def test_a_graph_about_no_node_speaks_by_the_mean() -> None:
    connector = adapter()
    assert connector.speak is not None
    expected = connector.speak(states_of(connector, one(-1)).mean(0))
    torch.testing.assert_close(tokens(connector, one(-1))[0, 0], expected)


def test_dropout_is_of_training_only() -> None:
    connector = adapter(dropout=0.5)
    assert torch.equal(tokens(connector.eval(), one()), tokens(connector, one()))
    assert not torch.allclose(tokens(connector.train(), one()), tokens(connector, one()))


@pytest.mark.parametrize(
    "words",
    [{"gnn": "gcn"}, {"at": "end"}, {"show": "all"}, {"layers": 0}, {"gnn": "gat", "heads": 3}, {"dropout": 1.0}],
)
def test_wrong_words_of_graph_adapter(words: dict[str, Any]) -> None:
    with pytest.raises(MmllmError):
        adapter(**words)
