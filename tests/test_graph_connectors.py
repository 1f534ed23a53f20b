"""graph_adapter and graph_tokens against their equations in plain torch, and inside a whole tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmllm import registry
from mmllm.assembly.build import build
from mmllm.assembly.model import Assembly
from mmllm.assembly.parts import set_trainable
from mmllm.batches.collate import collate
from mmllm.batches.encode import encode
from mmllm.batches.prompt import Prompter
from mmllm.connectors.connector import Connector
from mmllm.connectors.graph_adapter import GraphAdapterConnector
from mmllm.connectors.graph_disjoint import disjoint
from mmllm.connectors.graph_network import _convolutions
from mmllm.connectors.graph_tokens import GraphTokensConnector, distances, tree_positions, tree_slots
from mmllm.encoders.graph_states import write_tiny_model
from mmllm.encoders.text_graph import TextGraphEncoder
from mmllm.generate import Generator
from mmllm.mini.graph_data import write_graph
from mmllm.recipe import load_recipe
from mmllm.recipe_files import folder
from mmllm.sources import planetoid, text_attributed_graph
from mmllm.types import IGNORE, Features, Message, MmllmError, Sample
from tests.inside import randomise
from tests.parts import tiny_llm, tiny_llm_folder

DIM, LLM = 6, 10
GNNS = ("sage", "gat", "gin", "none")
PAIRS = [(0, 1), (0, 2), (1, 3), (3, 4), (2, 4), (5, 1)]
"""Of a graph with six nodes; the connectors get both directions."""


def features_of(pairs: list[list[tuple[int, int]]], sizes: list[int], targets: list[int], seed: int = 0) -> Features:
    """N graphs with random states; both directions of each pair."""
    states = torch.randn(len(sizes), max(sizes), DIM, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    edges = torch.full((len(sizes), 2, 2 * max(map(len, pairs))), -1)
    for number, own in enumerate(pairs):
        for place, (a, b) in enumerate([*own, *((b, a) for a, b in own)]):
            edges[number, :, place] = torch.tensor([a, b])
    grids = None if len(set(sizes)) == 1 else tuple((size,) for size in sizes)
    facts = {"edges": edges, "target": torch.tensor(targets)}
    return Features({-1: states * mask[..., None]}, mask, (max(sizes),), grids, facts)


def one(target: int = 0) -> Features:
    return features_of([PAIRS], [6], [target])


def adapter(**words: Any) -> GraphAdapterConnector:
    torch.manual_seed(1)
    words = {"at": "input", "hidden": 8, "heads": 2, **words}
    return GraphAdapterConnector(dim=DIM, llm_dim=LLM, **words)


def tokens(**words: Any) -> GraphTokensConnector:
    torch.manual_seed(1)
    return GraphTokensConnector(dim=DIM, llm_dim=LLM, **{"width": 8, "heads": 2, **words})


def adjacency(loops: bool) -> Tensor:
    """float[6, 6], 1 where the column sends to the row."""
    links = torch.zeros(6, 6)
    for a, b in PAIRS:
        links[a, b] = links[b, a] = 1
    return links + torch.eye(6) if loops else links


# ---- graph_adapter between encoder and LLM


def states_of(connector: GraphAdapterConnector, features: Features) -> Tensor:
    """float[nodes, hidden]."""
    return connector.network(disjoint(features))


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
    assert torch.equal(connector(one()), connector(other)) and not torch.allclose(sage(one()), sage(other), atol=1e-3)
    assert {n: p.shape for n, p in connector.named_parameters()} == {n: p.shape for n, p in sage.named_parameters()}


def everything(target: int) -> dict[str, Connector]:
    """Connectors whose answer must not depend on how nodes are numbered."""
    networks = {gnn: adapter(gnn=gnn) for gnn in GNNS}
    nodes = {f"{gnn} nodes": adapter(gnn=gnn, show="nodes") for gnn in GNNS}
    return {**networks, **nodes, "ho": tokens(template="ho", hops=3), "queries": tokens(template="queries", hops=2)}


@pytest.mark.parametrize("name", everything(0))
@torch.no_grad()
def test_how_nodes_are_numbered_does_not_matter(name: str) -> None:
    connector = everything(0)[name]
    order = torch.tensor([3, 0, 5, 1, 4, 2])  # new place -> old node
    back = order.argsort()
    given = one(target=2)
    edges = given.facts["edges"]
    moved = Features(
        {-1: given.layers[-1][:, order]}, given.mask, given.grid, None, {"edges": back[edges], "target": back[[2]]}
    )
    expected = connector(given)
    if name.endswith("nodes"):
        expected = expected[:, order]
    torch.testing.assert_close(connector(moved), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [*everything(0), "nd"])
@torch.no_grad()
def test_neighbours_in_the_batch_do_not_matter(name: str) -> None:
    connector = {**everything(0), "nd": tokens(fanout=(2, 2))}[name]
    pairs = [PAIRS, [], [(0, 1), (1, 2)], []]
    sizes, targets = [6, 1, 3, 2], [4, 0, 1, 1]
    batch = features_of(pairs, sizes, targets)
    together = connector(batch)
    for number, size in enumerate(sizes):
        alone = connector(batch.only(torch.tensor([number]), (size,)))[0]
        assert len(alone) == connector.tokens((size,))
        torch.testing.assert_close(together[number, : len(alone)], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gnn", GNNS)
def test_neighbours_only_does_not_know_the_nodes_own_state(gnn: str) -> None:
    batch = features_of([PAIRS, PAIRS], [6, 6], [0, 3])
    seen = {}
    for alone in (False, True):
        batch.layers[-1].requires_grad_(True).grad = None
        connector = adapter(gnn=gnn, neighbours_only=alone)
        (connector(batch) * torch.randn(2, 1, LLM, generator=torch.Generator().manual_seed(2))).sum().backward()
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
    torch.testing.assert_close(connector(one(-1))[0, 0], expected)


def test_dropout_is_of_training_only() -> None:
    connector = adapter(dropout=0.5)
    assert torch.equal(connector.eval()(one()), connector(one()))
    assert not torch.allclose(connector.train()(one()), connector(one()))


@pytest.mark.parametrize(
    "words",
    [{"gnn": "gcn"}, {"at": "end"}, {"show": "all"}, {"layers": 0}, {"gnn": "gat", "heads": 3}, {"dropout": 1.0}],
)
def test_wrong_words_of_graph_adapter(words: dict[str, Any]) -> None:
    with pytest.raises(MmllmError):
        adapter(**words)


# ---- graph_tokens


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


@pytest.mark.parametrize("words", [{"template": "tree"}, {"fanout": ()}, {"fanout": (0,)}, {"hops": 0}, {"heads": 3}])
def test_wrong_words_of_graph_tokens(words: dict[str, Any]) -> None:
    with pytest.raises(MmllmError):
        tokens(**words)


# ---- in a whole model

CHAIN = json.dumps({"nodes": ["tea", "milk", "red"], "edges": [[0, 1], [1, 2]], "target": 1}).encode()
STAR = json.dumps({"nodes": ["blue", "tea", "a", "b"], "edges": [[0, 1], [0, 2], [0, 3]], "target": 0}).encode()


def sample(name: str, *graphs: bytes) -> Sample:
    messages = (Message("user", "<graph>" * len(graphs) + " What is it?"), Message("assistant", "A cat."))
    return Sample(name, messages, {"graph": graphs} if graphs else {})


def model(family: str = "llama", kind: str = "graph_adapter", **words: Any) -> Assembly:
    llm, encoder = tiny_llm(family), TextGraphEncoder.tiny()
    torch.manual_seed(2)
    made = GraphAdapterConnector if kind == "graph_adapter" else GraphTokensConnector
    connector = made(dim=encoder.dim, llm_dim=llm.dim, **words)
    return Assembly(llm, {"graph": encoder}, {"graph": connector}, {"graph": "graph"}).requires_grad_(False).eval()


def batch_of(assembly: Assembly, *samples: Sample) -> Any:
    prompter, readers = Prompter(assembly.llm.tokenizer, ["graph"]), assembly.readers()
    return collate([encode(one, prompter, readers, 256, train=True) for one in samples], readers)


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
@torch.no_grad()
def test_the_loss_is_that_of_the_two_predictions_mixed(family: str) -> None:
    """Gemma 2 caps its logits: the mixture is of probabilities, after all that."""
    assembly = model(family, at="head", hidden=8)
    connector = assembly.connectors["graph"]
    assert isinstance(connector, GraphAdapterConnector)
    randomise(connector)
    batch = batch_of(assembly, sample("one", CHAIN, STAR), sample("two", STAR))
    nll, _ = assembly(batch)
    assert connector.memory is not None
    (about,) = connector.memory
    hidden = assembly.llm.hidden(assembly.embed(batch), batch.position_ids, batch.cu_seqlens)
    places = (batch.labels != IGNORE).nonzero().squeeze(-1)
    last = torch.tensor([1, 2])[batch.sequence_ids[places]]  # of two graphs the last one before the position
    fuse = connector.layers["fuse"]
    e = hidden[places - 1]
    u = F.silu(torch.cat([about[last] @ fuse.of_graph.weight.T, e @ fuse.of_text.weight.T], -1) @ fuse.wide.weight.T)
    other = u @ fuse.back.weight.T @ fuse.output.weight.T
    p = sum(assembly.llm.plain_logits(state).softmax(-1) for state in (e, other)) / 2
    expected = -p.gather(1, batch.labels[places][:, None]).log().sum()
    torch.testing.assert_close(nll, expected, atol=1e-4, rtol=1e-5)
    bare, _ = Assembly(assembly.llm, {}, {}, {})(batch_of(model(family), sample("three")))
    assert not torch.allclose(nll, bare)


@torch.no_grad()
def test_with_skip_it_starts_from_what_the_llm_says() -> None:
    assembly = model(at="head", hidden=8, skip=True)
    batch = batch_of(assembly, sample("one", CHAIN), sample("two"))
    mixed, _ = assembly(batch)
    assembly.handles["graph"].remove()  # type: ignore[union-attr]
    plain, _ = assembly(batch)
    torch.testing.assert_close(mixed, plain, atol=1e-4, rtol=1e-5)
    randomise(assembly.connectors["graph"])
    again = assembly.connectors["graph"].attach(assembly.llm)  # type: ignore[operator]
    assert not torch.allclose(assembly(batch)[0], plain)
    again.remove()
    assert torch.equal(assembly(batch)[0], plain)


@torch.no_grad()
def test_conversations_without_a_graph_stay_what_they_are() -> None:
    assembly = model(at="head", hidden=8)
    randomise(assembly.connectors["graph"])
    batch = batch_of(assembly, sample("one", CHAIN), sample("two"))
    assembly.route(assembly.flow(batch))
    hidden = assembly.llm.hidden(assembly.embed(batch), batch.position_ids, batch.cu_seqlens)
    places = torch.arange(len(hidden))
    mixed, plain = assembly.llm.logits(hidden, places), assembly.llm.plain_logits(hidden)
    second = batch.sequence_ids == 1
    assert torch.equal(mixed[second], plain[second]) and not torch.allclose(mixed[~second], plain[~second], atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("graph_adapter", {"at": "both", "hidden": 8}),
        ("graph_adapter", {"at": "input", "show": "nodes", "hidden": 8}),
        ("graph_tokens", {"template": "nd", "fanout": [2, 2]}),
        ("graph_tokens", {"template": "ho", "hops": 2}),
        ("graph_tokens", {"template": "queries", "queries": 3, "width": 8}),
    ],
)
def test_answers_in_a_batch_are_those_one_by_one(kind: str, words: dict[str, Any]) -> None:
    assembly = model(kind=kind, **words)
    randomise(assembly.connectors["graph"])
    generator = Generator(assembly)
    asked = [sample("one", CHAIN), sample("two"), sample("three", STAR, CHAIN), sample("four", STAR)]
    asked = [Sample(one.name, one.messages[:1], one.media) for one in asked]
    together = [answer.text for answer in generator.batch(asked, 6)]
    alone = ["".join(piece.text for piece in generator.stream(one, 6)) for one in asked]
    assert together == alone and len(set(together)) > 1


def test_media_without_states_learn_nothing_but_take_part() -> None:
    assembly = model(at="both", hidden=8)
    connector = assembly.connectors["graph"].requires_grad_(True)
    assembly.train()
    nll, extra = assembly(batch_of(assembly, sample("two")))
    (nll + extra).backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in connector.parameters())


# ---- the recipes, with stand-ins for what is large


def small_parts(name: str, tmp_path: Path) -> list[str]:
    """Overrides of a recipe: small parts and data in ``tmp_path``."""
    if name == "mini/cora":
        planetoid.write_tiny(tmp_path / "data")
        asked = {"source": "planetoid", "name": "tiny", "path": str(tmp_path / "data")}
        return [
            f"data.nodes={json.dumps({'type': 'planetoid', 'name': 'tiny', 'path': asked['path']})}",
            f"eval.benchmarks={json.dumps({'node_classification': asked})}",
            "encoders.graph.width=6",
        ]
    if name.startswith("mini/"):
        write_graph(tmp_path, 20, 3, 0)
        return [f"data.instruct.path={tmp_path / 'instruct.jsonl'}"]
    write_tiny_model(str(tmp_path / "text"))
    text_attributed_graph.write_tiny(tmp_path / "data")
    return [
        f"llm.path={tiny_llm_folder(tmp_path, 'qwen2', max_position_embeddings=4096)}",
        "llm.dtype=float32",
        f"encoders.graph.model={tmp_path / 'text'}",
        f"data.nodes.path={tmp_path / 'data'}",
        f"eval.benchmarks.node_classification.path={tmp_path / 'data'}",
    ]


RECIPES = ["graph_adapter", "graph_tokens", "mini/graph_adapter", "mini/graph_tokens", "mini/cora"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_learn(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(folder() / f"{name}.yaml", small_parts(name, tmp_path))
    assembly = build(recipe, "cpu")
    for key, part in recipe.data.items():
        source = registry.load("sources", part.type)(**part.args)
        batch = batch_of(assembly, *(source[number] for number in range(2)))
        assert key in recipe.stages["learn"].data
    (stage,) = recipe.stages.values()
    set_trainable(assembly, stage.train)
    assembly.train()
    learning = {name: parameter for name, parameter in assembly.named_parameters() if parameter.requires_grad}
    for _ in range(2):  # LoRA's A gets a gradient once its B has moved
        torch.manual_seed(0)
        nll, extra = assembly(batch)
        (nll / batch.n_labels + extra).backward()
        with torch.no_grad():
            for parameter in learning.values():
                assert parameter.grad is not None
                parameter -= 1e-2 * parameter.grad
    assert nll.isfinite()
    assert [name for name, p in learning.items() if p.grad is None or not p.grad.abs().sum() > 0] == []
    asked = dict(recipe.eval.benchmarks)
    if "node_classification" in asked:
        assert len(registry.load("benchmarks", "node_classification")(**asked["node_classification"])) == 2
