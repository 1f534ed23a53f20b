"""ESFT and ExpertWeave: trained experts beside the LLM's own, alone and of many sets in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmllm.checkpoints.load import load_run
from mmllm.connectors.llm_adapters.esft import EsftConnector
from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.errors import MmllmError
from mmllm.generation.generator import Generator
from mmllm.generation.memory import Sizes
from mmllm.hooks.experts import expert_tensors
from mmllm.hooks.passes import text_context
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.model import MultimodalLM
from mmllm.sets.engine import SetsEngine
from mmllm.sets.frozen_parts import FrozenParts
from mmllm.sets.loading import load_set
from mmllm.testing import check_llm_adapter
from mmllm.testing.tiny.llms import WITH_EXPERTS, tiny_llm, tiny_llm_folder
from tests.support.sets import Answered, Runs, alone, answers, close, joined, over, samples


def esft(llm: CausalLM, experts: Any, **words: Any) -> EsftConnector:
    return EsftConnector(llm_dim=llm.dim, experts=experts, **words)


def merged(family: str, model: MultimodalLM) -> CausalLM:
    """The LLM with a model's trained experts written over its own."""
    llm = tiny_llm(family)
    for connector in model.connectors.values():
        if isinstance(connector, EsftConnector):
            for key in connector.layers:
                layer, base = connector.layer(int(key)), llm.experts(int(key))
                assert base is not None
                for name, tensor in expert_tensors(base).items():
                    tensor.data[list(layer.ids)] = layer.tensors()[name].data
    return llm


def over_merged(family: str, model: MultimodalLM) -> MultimodalLM:
    """The model without its trained experts, over the merged LLM."""
    encoders = {key: model.encoders[key] for key in model.encoders}
    return MultimodalLM(
        merged(family, model), encoders, {"image": model.connectors["image"]}, {"image": "image"}
    ).eval()  # type: ignore[arg-type,dict-item]


def near(found: Answered, expected: Answered) -> None:
    """The same tokens, and logits within 1e-4: drawn LoRA before a router, or two products for one, round more."""
    for (tokens, logits), (own_tokens, own_logits) in zip(found, expected, strict=True):
        assert tokens == own_tokens and float((logits - own_logits).abs().max()) <= 1e-4


def differ(one: Answered, other: Answered) -> bool:
    return any(not torch.allclose(a[1], b[1][: len(a[1])], atol=1e-3) for a, b in zip(one, other, strict=True))


def test_the_contract() -> None:
    check_llm_adapter(partial(EsftConnector, experts=[1, 4]), family="qwen2_moe")


@pytest.mark.parametrize("family", ["qwen2_moe", "mixtral"])
def test_sets_in_one_batch_equal_their_merged_models(family: str) -> None:
    """Beside sets with LoRA, with other experts, with both, and for pictures alone."""
    llm, asked = tiny_llm(family), samples()
    bare = alone(MultimodalLM(llm, {}, {}, {}), asked[:1])
    made: dict[str, Callable[[], MultimodalLM]] = {
        "some": lambda: over(llm, 0, experts=esft(llm, [0, 3])),
        "others": lambda: over(llm, 1, experts=esft(llm, {"1": [0, 5], "3": [2]})),
        "pictures": lambda: over(llm, 2, when=("image",), experts=esft(llm, [1, 2, 3], blocks=[0, 2])),
        "lora": lambda: over(llm, 3, lora=LoraConnector(llm_dim=llm.dim, rank=2)),
        "both": lambda: over(
            llm, 4, one=esft(llm, [4]), two=esft(llm, [5]), lora=LoraConnector(llm_dim=llm.dim, rank=3)
        ),
    }
    models, expected = {}, {}
    for name, make in made.items():  # one after the other: each stands in the LLM while it is asked
        models[name] = make()
        expected[name] = alone(models[name], asked)
    assert all(differ(bare, found[:1]) for name, found in expected.items() if name != "pictures")
    assert not differ(bare, expected["pictures"][:1])
    for name in ("some", "others"):
        near(expected[name], alone(over_merged(family, models[name]), asked))
    engine, generators = joined(models)
    assert None not in engine._sets.values()
    found = answers([generators[name] for name in models for _ in asked], asked * len(models))
    for number, name in enumerate(models):
        same = close if name in ("some", "others", "pictures") else near
        same(found[3 * number : 3 * number + 3], expected[name])
    for learned in engine.sets[:3]:
        engine.remove(learned)
    left = ["lora", "both"]
    found = answers([generators[name] for name in left for _ in asked], asked * 2)
    for number, name in enumerate(left):
        near(found[3 * number : 3 * number + 3], expected[name])
    for learned in engine.sets:
        engine.remove(learned)
    plain = tiny_llm(family).model.state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in llm.model.state_dict().items())
    assert torch.equal(alone(MultimodalLM(llm, {}, {}, {}), asked[:1])[0][1], bare[0][1])


@pytest.mark.parametrize("family", WITH_EXPERTS)
def test_a_set_of_a_server_is_bit_equal_to_the_merged_model(family: str) -> None:
    """In the same passes: the same rows meet the same weights, whatever else is in the table."""
    llm, asked = tiny_llm(family), samples()
    models, whole = {}, {}
    for seed, experts in enumerate(([0, 3], [3, 5])):
        models[str(seed)] = over(llm, seed, experts=esft(llm, experts))
        models[str(seed)].detach()
        whole[str(seed)] = over_merged(family, models[str(seed)])
    _, generators = joined(models)
    for name, model in whole.items():
        model.detach()
        _, alone_in_it = joined({name: model})
        same = zip(answers([generators[name]] * 3, asked), answers([alone_in_it[name]] * 3, asked), strict=True)
        for (tokens, logits), (own_tokens, own_logits) in same:
            assert tokens == own_tokens and torch.equal(logits, own_logits)


def test_memory_is_that_of_the_experts_that_were_trained() -> None:
    llm = tiny_llm("qwen2_moe")
    models = {}
    for n in range(4):
        models[str(n)] = over(llm, n, experts=esft(llm, [n, 5][: n % 2 + 1], blocks=[0]))
        models[str(n)].detach()
    n_trained = sum(n % 2 + 1 for n in range(4))
    engine, _ = joined(models)
    base = llm.experts(0)
    assert base is not None
    for name, own in expert_tensors(base).items():
        table = own.untyped_storage()
        assert table.nbytes() == (6 + n_trained) * own[0].numel() * own.element_size()
        layers = [
            one for model in models.values() for one in model.connectors.values() if isinstance(one, EsftConnector)
        ]
        assert {one.layer(0).tensors()[name].untyped_storage().data_ptr() for one in layers} == {table.data_ptr()}
    for learned in engine.sets:
        engine.remove(learned)
    for own in expert_tensors(base).values():
        assert own.untyped_storage().nbytes() == own.numel() * own.element_size()


def test_a_pass_whose_router_chooses_none_of_them_leaves_no_weight_without_gradient() -> None:
    llm = tiny_llm("mixtral")
    connector = esft(llm, [2])
    handle = connector.attach(llm)
    run = llm.experts(0)
    assert run is not None
    ids, weights = torch.zeros(5, 1, dtype=torch.int64), torch.ones(5, 1)
    hidden: Tensor = torch.randn(5, 32)
    ctx = text_context(torch.arange(5), torch.tensor([0, 5], dtype=torch.int32))
    with llm.scope.open(ctx):
        output = run(hidden, ids, weights)
    output.sum().backward()
    assert all(tensor.grad is not None and not tensor.grad.any() for tensor in connector.layer(0).tensors().values())
    handle.remove()
    assert torch.equal(output, run(hidden, ids, weights))


def test_run_folders_are_served_in_one_batch(tmp_path: Path) -> None:
    """Two runs over one LLM in memory, the second loaded while the first's experts lie in the table."""
    runs = Runs(tmp_path)
    tiny_llm_folder(tmp_path, "qwen2_moe")
    runs.use_llm("tiny-qwen2_moe-0")
    words = {"one": {"experts": [1, 2]}, "two": {"experts": {"0": [2], "3": [0]}}}
    asked = samples()[:1]
    engine, parts = SetsEngine(Sizes()), FrozenParts()
    loaded, expected = [], []
    for seed, (name, arguments) in enumerate(words.items()):
        run = runs.write(name, seed, experts={"type": "esft", **arguments})
        expected += alone(load_run(run, "cpu")[1], asked)
        loaded.append(load_set(run, name, engine, parts).learned)
    assert loaded[0].model.llm is loaded[1].model.llm and None not in engine._sets.values()
    generators = [Generator(one.model, engine=engine, learned=one) for one in loaded]
    near(answers(generators, asked * 2), expected)


@pytest.mark.parametrize(
    ("experts", "words", "message"),
    [
        ([6], {}, "block 0 has 6 experts, numbered from 0; found 6"),
        ({"7": [1]}, {}, "layer 7|block 7|out of range"),
        ([], {}, "at least one"),
        ([1, 1], {}, "none twice"),
        ({"0": [1]}, {"blocks": [0]}, "names blocks already"),
        ({"a": [1]}, {}, "numbers of blocks"),
    ],
)
def test_what_cannot_be_is_one_sentence(experts: Any, words: dict[str, Sequence[int]], message: str) -> None:
    llm = tiny_llm("qwen2_moe")
    with pytest.raises(MmllmError, match=message):
        esft(llm, experts, **words).attach(llm)


def test_an_llm_without_experts_is_refused() -> None:
    llm = tiny_llm("llama")
    with pytest.raises(MmllmError, match="no experts that are known"):
        esft(llm, [0]).attach(llm)
