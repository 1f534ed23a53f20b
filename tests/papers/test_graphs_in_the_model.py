"""graph_adapter and graph_tokens inside a whole tiny model: loss, answers, conversations without a graph."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmllm.connectors.deep_fusion.graph_adapter import GraphAdapterConnector
from mmllm.connectors.projectors.graph_tokens import GraphTokensConnector
from mmllm.generation.generator import Generator
from mmllm.model.model import MultimodalLM
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.types import IGNORE_INDEX, Sample
from tests.support.assemblies import assembly_of
from tests.support.forward import hidden, logits
from tests.support.parts import randomise
from tests.support.talks import packed, talk

CHAIN = json.dumps({"nodes": ["tea", "milk", "red"], "edges": [[0, 1], [1, 2]], "target": 1}).encode()
STAR = json.dumps({"nodes": ["blue", "tea", "a", "b"], "edges": [[0, 1], [0, 2], [0, 3]], "target": 0}).encode()


def graph_talk(name: str, *graphs: bytes) -> Sample:
    """What is it? A cat."""
    return talk(name, "<graph>" * len(graphs) + " What is it?", "A cat.", **({"graph": graphs} if graphs else {}))


def with_graphs(family: str = "llama", kind: str = "graph_adapter", **words: Any) -> MultimodalLM:
    """A tiny LLM that sees graphs through one of the two connectors."""
    made = GraphAdapterConnector if kind == "graph_adapter" else GraphTokensConnector
    return assembly_of(made, family, tiny_encoders.text_graph(), **words)


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
@torch.no_grad()
def test_the_loss_is_that_of_the_two_predictions_mixed(family: str) -> None:
    """Gemma 2 caps its logits: the mixture is of probabilities, after all that."""
    model = with_graphs(family, at="head", hidden=8)
    connector = model.connectors["graph"]
    assert isinstance(connector, GraphAdapterConnector)
    randomise(connector)
    batch = packed(model, [graph_talk("one", CHAIN, STAR), graph_talk("two", STAR)])
    nll, _, _ = model(batch)
    ctx, hidden = model.hidden(batch)
    about = ctx.media["graph"]
    places = (batch.labels != IGNORE_INDEX).nonzero().squeeze(-1)
    last = torch.tensor([1, 2])[batch.sequence_ids[places]]  # of two graphs the last one before the position
    fuse = connector.layers["fuse"]
    e = hidden[places - 1]
    u = F.silu(torch.cat([about[last] @ fuse.of_graph.weight.T, e @ fuse.of_text.weight.T], -1) @ fuse.wide.weight.T)
    other = u @ fuse.back.weight.T @ fuse.output.weight.T
    p = sum(model.llm.plain_logits(state).softmax(-1) for state in (e, other)) / 2
    expected = -p.gather(1, batch.labels[places][:, None]).log().sum()
    torch.testing.assert_close(nll, expected, atol=1e-4, rtol=1e-5)
    bare, _, _ = MultimodalLM(model.llm, {}, {}, {})(packed(with_graphs(family), [graph_talk("three")]))
    assert not torch.allclose(nll, bare)


@torch.no_grad()
def test_with_skip_it_starts_from_what_the_llm_says() -> None:
    model = with_graphs(at="head", hidden=8, skip=True)
    batch = packed(model, [graph_talk("one", CHAIN), graph_talk("two")])
    mixed, _, _ = model(batch)
    model.handles["graph"].remove()  # type: ignore[union-attr]
    plain, _, _ = model(batch)
    torch.testing.assert_close(mixed, plain, atol=1e-4, rtol=1e-5)
    randomise(model.connectors["graph"])
    again = model.connectors["graph"].attach(model.llm)  # type: ignore[operator]
    assert not torch.allclose(model(batch)[0], plain)
    again.remove()
    assert torch.equal(model(batch)[0], plain)


@torch.no_grad()
def test_conversations_without_a_graph_stay_what_they_are() -> None:
    model = with_graphs(at="head", hidden=8)
    randomise(model.connectors["graph"])
    batch = packed(model, [graph_talk("one", CHAIN), graph_talk("two")])
    mixed, plain = logits(model, batch), model.llm.plain_logits(hidden(model, batch))
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
    model = with_graphs(kind=kind, **words)
    randomise(model.connectors["graph"])
    generator = Generator(model)
    asked = [graph_talk("one", CHAIN), graph_talk("two"), graph_talk("three", STAR, CHAIN), graph_talk("four", STAR)]
    asked = [Sample(one.name, one.messages[:1], one.media) for one in asked]
    together = [answer.text for answer in generator.generate(asked, 6)]
    alone = ["".join(piece.text for piece in generator.stream(one, 6)) for one in asked]
    assert together == alone and len(set(together)) > 1


def test_media_without_states_learn_nothing_but_take_part() -> None:
    model = with_graphs(at="both", hidden=8)
    connector = model.connectors["graph"].requires_grad_(True)
    model.train()
    nll, extra, _ = model(packed(model, [graph_talk("two")]))
    (nll + extra).backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in connector.parameters())
