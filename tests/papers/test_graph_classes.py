"""graph_adapter's second stage: a linear map onto classes where an answer begins, and all else as the LLM has it."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from mmllm.connectors.deep_fusion.graph_adapter import GraphAdapterConnector
from mmllm.connectors.layers.graph_fusion import FirstWords
from mmllm.errors import MmllmError, SampleError
from mmllm.generation.generator import Generator
from mmllm.model.model import MultimodalLM
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.types import IGNORE_INDEX, Sample
from tests.support.assemblies import assembly_of
from tests.support.forward import hidden, logits
from tests.support.graphs import adapter
from tests.support.parts import randomise
from tests.support.talks import packed, talk

CHAIN = json.dumps({"nodes": ["tea", "milk", "red"], "edges": [[0, 1], [1, 2]], "target": 1}).encode()
STAR = json.dumps({"nodes": ["blue", "tea", "a", "b"], "edges": [[0, 1], [0, 2], [0, 3]], "target": 0}).encode()
CLASSES = ("cat", "the mat", "receipt")


def about(name: str, answer: str, *graphs: bytes) -> Sample:
    """A conversation on graphs, or on none."""
    return talk(name, "<graph>" * len(graphs) + " What is it?", answer, **({"graph": graphs} if graphs else {}))


def asked(sample: Sample) -> Sample:
    """Its question alone."""
    return Sample(sample.name, sample.messages[:1], sample.media)


@pytest.fixture(scope="module")
def model() -> MultimodalLM:
    """A tiny LLM with three classes, every weight drawn."""
    words = {"at": "head", "hidden": 8, "classes": CLASSES}
    made = assembly_of(GraphAdapterConnector, "llama", tiny_encoders.text_graph(), **words)
    randomise(made.connectors["graph"])
    return made


def first_words(model: MultimodalLM) -> FirstWords:
    connector = model.connectors["graph"]
    assert isinstance(connector, GraphAdapterConnector) and connector.first is not None
    return connector.first


@torch.no_grad()
def test_an_answers_first_word_is_the_linear_map_of_the_fusion_and_the_rest_is_the_llms(model: MultimodalLM) -> None:
    samples = [about("one", "the mat", CHAIN, STAR), about("two", "receipt", STAR), about("three", "cat")]
    batch = packed(model, samples)
    ctx, states = model.hidden(batch)
    z, fuse = ctx.media["graph"], model.connectors["graph"].layers["fuse"]  # type: ignore[union-attr,index]
    found, plain = logits(model, batch), model.llm.plain_logits(hidden(model, batch))
    begins = ((batch.labels != IGNORE_INDEX) & (batch.labels.roll(1) == IGNORE_INDEX)).nonzero().squeeze(-1) - 1
    places, last = begins[:2], torch.tensor([1, 2])  # of the first two conversations; the last graph before each
    e = states[places]
    u = F.silu(torch.cat([z[last] @ fuse.of_graph.weight.T, e @ fuse.of_text.weight.T], -1) @ fuse.wide.weight.T)
    expected = (u @ fuse.back.weight.T @ fuse.classes.weight.T + fuse.classes.bias).log_softmax(-1)
    ids = torch.tensor(first_words(model).ids)
    torch.testing.assert_close(found[places][:, ids], expected, atol=1e-5, rtol=1e-5)
    assert found[places].isneginf().sum() == 2 * (model.llm.vocab_size - len(CLASSES))
    others = torch.ones(len(found), dtype=torch.bool).index_fill(0, places, False)
    assert torch.equal(found[others], plain[others])
    nll = -sum(expected[row, CLASSES.index(one)] for row, one in enumerate(("the mat", "receipt")))
    rest = (batch.labels != IGNORE_INDEX).nonzero().squeeze(-1) - 1
    rest = rest[~torch.isin(rest, places)]
    nll = nll + F.cross_entropy(plain[rest], batch.labels[rest + 1], reduction="sum")
    torch.testing.assert_close(model(batch)[0], nll, atol=1e-4, rtol=1e-5)


def test_answers_begin_with_the_most_probable_class_alone_and_together(model: MultimodalLM) -> None:
    samples = [asked(about(str(n), "cat", *graphs)) for n, graphs in enumerate([(CHAIN,), (STAR, CHAIN), (STAR,), ()])]
    generator, ids = Generator(model), first_words(model).ids
    together = [answer.text for answer in generator.generate(samples, 4)]
    assert together == ["".join(piece.text for piece in generator.stream(one, 4)) for one in samples]
    for sample, text in zip(samples[:3], together, strict=False):
        scores = model.logits(packed(model, [sample], train=False))[-1]
        chosen = int(scores.argmax())
        assert chosen in ids and text.startswith(model.llm.tokenizer.decode([chosen]))
        assert int(scores.isfinite().sum()) == len(ids)


def test_the_fusion_learns_from_classes_and_from_nothing_else(model: MultimodalLM) -> None:
    connector = model.connectors["graph"].requires_grad_(True)
    model.train()
    model.zero_grad(set_to_none=True)
    nll, extra, _ = model(packed(model, [about("one", "the mat", CHAIN), about("two", "anything at all")]))
    (nll + extra).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in connector.parameters())
    model.eval()


def test_an_answer_that_is_no_class_is_refused_where_a_graph_is_shown(model: MultimodalLM) -> None:
    with pytest.raises(SampleError, match=r"^two: its answer begins with none of the classes of connectors\.graph; "):
        model(packed(model, [about("one", "cat", CHAIN), about("two", "Total", STAR)]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"at": "input", "classes": ["a", "b"]}, "say at: head or both"),
        ({"at": "head", "skip": True, "classes": ["a", "b"]}, "and no skip"),
        ({"at": "head", "classes": ["a"]}, "two or more, each once"),
        ({"at": "head", "classes": ["a", "a"]}, "two or more, each once"),
    ],
)
def test_words_that_classes_cannot_stand_beside(words: dict[str, object], said: str) -> None:
    with pytest.raises(MmllmError, match=said):
        adapter(**words)


def test_two_classes_that_begin_alike_are_refused_by_name(model: MultimodalLM) -> None:
    with pytest.raises(MmllmError, match='"the mat" and "the cat" begin with one token'):
        FirstWords.of(model.llm, ["the mat", "receipt", "the cat"])
