"""graph_adapter and graph_tokens inside a whole tiny model, and their recipes with stand-ins for what is large."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmllm import registry
from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.connectors.deep_fusion.graph_adapter import GraphAdapterConnector
from mmllm.connectors.projectors.graph_tokens import GraphTokensConnector
from mmllm.datasets import planetoid, text_attributed_graph
from mmllm.encoders.graph.states import write_tiny_model
from mmllm.encoders.graph.text_graph import TextGraphEncoder
from mmllm.generation.generator import Generator
from mmllm.messages.tokenize import Prompter
from mmllm.miniature.tasks.graphs import write_graph
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import set_trainable
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.types import IGNORE_INDEX, Message, Sample
from tests.support.inside import randomise
from tests.support.parts import tiny_llm, tiny_llm_folder

CHAIN = json.dumps({"nodes": ["tea", "milk", "red"], "edges": [[0, 1], [1, 2]], "target": 1}).encode()
STAR = json.dumps({"nodes": ["blue", "tea", "a", "b"], "edges": [[0, 1], [0, 2], [0, 3]], "target": 0}).encode()


def sample(name: str, *graphs: bytes) -> Sample:
    messages = (Message("user", "<graph>" * len(graphs) + " What is it?"), Message("assistant", "A cat."))
    return Sample(name, messages, {"graph": graphs} if graphs else {})


def model(family: str = "llama", kind: str = "graph_adapter", **words: Any) -> MultimodalLM:
    llm, encoder = tiny_llm(family), TextGraphEncoder.tiny()
    torch.manual_seed(2)
    made = GraphAdapterConnector if kind == "graph_adapter" else GraphTokensConnector
    connector = made(dim=encoder.dim, llm_dim=llm.dim, **words)
    return MultimodalLM(llm, {"graph": encoder}, {"graph": connector}, {"graph": "graph"}).requires_grad_(False).eval()


def batch_of(assembly: MultimodalLM, *samples: Sample) -> Any:
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
    places = (batch.labels != IGNORE_INDEX).nonzero().squeeze(-1)
    last = torch.tensor([1, 2])[batch.sequence_ids[places]]  # of two graphs the last one before the position
    fuse = connector.layers["fuse"]
    e = hidden[places - 1]
    u = F.silu(torch.cat([about[last] @ fuse.of_graph.weight.T, e @ fuse.of_text.weight.T], -1) @ fuse.wide.weight.T)
    other = u @ fuse.back.weight.T @ fuse.output.weight.T
    p = sum(assembly.llm.plain_logits(state).softmax(-1) for state in (e, other)) / 2
    expected = -p.gather(1, batch.labels[places][:, None]).log().sum()
    torch.testing.assert_close(nll, expected, atol=1e-4, rtol=1e-5)
    bare, _ = MultimodalLM(assembly.llm, {}, {}, {})(batch_of(model(family), sample("three")))
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
    together = [answer.text for answer in generator.generate(asked, 6)]
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
