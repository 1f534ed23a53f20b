"""graph_tokens against its equations in plain torch; both graph connectors whatever the numbering and the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmllm.connectors.base import DeepFusion, Projector
from mmllm.connectors.layers.graph_disjoint import disjoint
from mmllm.connectors.projectors.graph_tokens import GraphTokensConnector, distances, tree_positions, tree_slots
from mmllm.errors import MmllmError
from mmllm.types import Features
from tests.support.graphs import DIM, GNNS, LLM, PAIRS, adapter, adjacency, features_of, one


def tokens(**words: Any) -> GraphTokensConnector:
    torch.manual_seed(1)
    return GraphTokensConnector(dim=DIM, llm_dim=LLM, **{"width": 8, "heads": 2, **words})


def everything(target: int) -> dict[str, Projector | DeepFusion]:
    """Connectors whose answer must not depend on how nodes are numbered."""
    networks = {gnn: adapter(gnn=gnn) for gnn in GNNS}
    nodes = {f"{gnn} nodes": adapter(gnn=gnn, show="nodes") for gnn in GNNS}
    return {
        **networks,
        **nodes,
        "ho": tokens(template="ho", hops=3),
        "symmetric ho": tokens(template="ho", hops=3, average="symmetric"),
        "queries": tokens(template="queries", hops=2),
    }


def given_by(connector: Projector | DeepFusion, features: Features) -> Tensor:
    """Tokens float[N, n_tokens, llm_dim], without what layers inside the LLM would read."""
    found = connector(features)
    return found[0] if isinstance(connector, DeepFusion) else found


@pytest.mark.parametrize("name", everything(0))
@torch.no_grad()
def test_how_nodes_are_numbered_does_not_matter(name: str) -> None:
    connector = everything(0)[name]
    order = torch.tensor([3, 0, 5, 1, 4, 2])  # new place -> old node
    back = order.argsort()
    given = one(target=2)
    edges = given.extras["edges"]
    moved = Features(
        {-1: given.layers[-1][:, order]}, given.mask, given.grid, None, {"edges": back[edges], "target": back[[2]]}
    )
    expected = given_by(connector, given)
    if name.endswith("nodes"):
        expected = expected[:, order]
    torch.testing.assert_close(given_by(connector, moved), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [*everything(0), "nd"])
@torch.no_grad()
def test_neighbours_in_the_batch_do_not_matter(name: str) -> None:
    connector = {**everything(0), "nd": tokens(fanout=(2, 2))}[name]
    pairs = [PAIRS, [], [(0, 1), (1, 2)], []]
    sizes, targets = [6, 1, 3, 2], [4, 0, 1, 1]
    batch = features_of(pairs, sizes, targets)
    together = given_by(connector, batch)
    for number, size in enumerate(sizes):
        alone = given_by(connector, batch.only(torch.tensor([number]), (size,)))[0]
        assert len(alone) == connector.n_tokens((size,))
        torch.testing.assert_close(together[number, : len(alone)], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_nd_is_a_tree_of_first_neighbours() -> None:
    slots = tree_slots(disjoint(one()), torch.tensor([0]), (2, 3))
    #        root, its two,  senders of 1,  senders of 2 and a hole
    assert slots.tolist() == [[0, 1, 2, 0, 3, 5, 0, 4, -1]]
    assert tree_slots(disjoint(one()), torch.tensor([5]), (2, 2)).tolist() == [[5, 1, -1, 0, 3, -1, -1]]
    connector = tokens(fanout=(2, 3))
    out = connector(one())
    assert out.shape == (1, 9, LLM) and not out[0, 8].any() and out[0, :8].any(-1).all()
    x = torch.cat([one().layers[-1][0, 5], connector.get_buffer("positions")[5]])
    torch.testing.assert_close(out[0, 5], connector.project(x))


def test_positions_are_eigenvectors_of_the_trees_laplacian() -> None:
    vectors = tree_positions((2, 2)).double()
    links = torch.zeros(7, 7, dtype=torch.float64)
    for child, parent in ((1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2)):
        links[child, parent] = links[parent, child] = 1
    scale = torch.diag(links.sum(0).rsqrt())
    laplacian = torch.eye(7) - scale @ links @ scale
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(7).double(), atol=1e-6, rtol=0)
    values = torch.linalg.eigvalsh(laplacian)
    torch.testing.assert_close(laplacian @ vectors, vectors * values, atol=1e-6, rtol=0)
    assert tree_positions((10, 10)).shape == (111, 111)


@torch.no_grad()
def test_ho_are_means_over_hops() -> None:
    connector = tokens(template="ho", hops=2)
    mean = adjacency(loops=False)
    mean = mean / mean.sum(1, keepdim=True)
    x = one().layers[-1][0]
    expected = connector.project(torch.stack([x[3], (mean @ x)[3], (mean @ mean @ x)[3]]))
    torch.testing.assert_close(connector(one(3))[0], expected, atol=1e-5, rtol=1e-4)
    alone = connector(features_of([[]], [1], [0]))
    torch.testing.assert_close(alone[0, 1:], connector.project(torch.zeros(2, DIM)))


@torch.no_grad()
def test_symmetric_ho_is_llagas_released_code() -> None:
    """h_k = D^-1/2 A D^-1/2 h_(k-1), D of senders also where edges go one way; 0 at a node without any."""
    connector = tokens(template="ho", hops=2, average="symmetric")
    links = adjacency(loops=False)
    x = one().layers[-1][0]
    root = links.sum(1).rsqrt()
    step = root[:, None] * links * root
    expected = connector.project(torch.stack([x[3], (step @ x)[3], (step @ step @ x)[3]]))
    torch.testing.assert_close(connector(one(3))[0], expected, atol=1e-5, rtol=1e-4)
    alone = connector(features_of([[]], [1], [0]))
    torch.testing.assert_close(alone[0, 1:], connector.project(torch.zeros(2, DIM)))
    given = one(1)
    edges = torch.tensor([[[0, 2, 4, 1], [1, 1, 0, 4]]])  # 0 and 2 to 1, 4 to 0, 1 to 4: nobody sends to 2
    x, weight = given.layers[-1][0], 1 / 2**0.5
    directed = Features(given.layers, given.mask, given.grid, None, {"edges": edges, "target": torch.tensor([1])})
    states = torch.stack([x[1], weight * x[0], weight * x[4]])
    torch.testing.assert_close(connector(directed)[0], connector.project(states), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_queries_know_distances_and_attend_by_their_equation() -> None:
    assert distances(disjoint(one()), 2).tolist() == [0, 1, 1, 2, 2, 2]
    assert distances(disjoint(one(5)), 1).tolist() == [2, 1, 2, 2, 2, 0]
    assert distances(disjoint(one(-1)), 2).tolist() == [3] * 6
    connector = tokens(template="queries", hops=2, queries=3, heads=1)
    attend = connector.attend
    states = attend.norm(attend.enter(one().layers[-1][0]) + attend.distance.weight[[0, 1, 1, 2, 2, 2]])
    key, value = attend.key_value(states).chunk(2, dim=-1)
    read = (attend.queries.weight @ key.T / 8**0.5).softmax(-1) @ value
    expected = connector.project(attend.queries.weight + attend.output(read))
    torch.testing.assert_close(connector(one())[0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("template", ["nd", "ho"])
def test_templates_need_the_node_they_are_about(template: str) -> None:
    with pytest.raises(MmllmError, match="g#17"):
        tokens(template=template)(one(-1))


@pytest.mark.parametrize(
    "words", [{"template": "tree"}, {"average": "sum"}, {"fanout": ()}, {"fanout": (0,)}, {"hops": 0}, {"heads": 3}]
)
def test_wrong_words_of_graph_tokens(words: dict[str, Any]) -> None:
    with pytest.raises(MmllmError):
        tokens(**words)
