"""Rows of different sets in one pass: each answer is the one of its set served alone, whatever its connectors are."""

from __future__ import annotations

import pytest
import torch

from mmllm.connectors.encoder_adapters.adaptformer import AdaptformerConnector
from mmllm.connectors.llm_adapters.inner_adaptor import InnerAdaptorConnector
from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.model import MultimodalLM
from mmllm.sets.engine import SetsEngine
from mmllm.testing.tiny import models as tiny_models
from mmllm.testing.tiny.models import tiny_vision
from tests.support.inside import VARIANTS, connector_of, inside, key_of
from tests.support.parts import randomise, tiny_llm
from tests.support.sets import alone, answers, close, joined, over, samples

BY_THEMSELVES = {"inner_adaptor", "iva from image", "graph_adapter from image"}
"""Variants that no rows are shared with: a head of their own, whole prompts, logits of other states."""


def lora(llm: CausalLM, rank: int, **words: float) -> LoraConnector:
    """A LoRA of all linear layers."""
    return LoraConnector(llm_dim=llm.dim, rank=rank, alpha=2.0 + rank, **words)  # type: ignore[arg-type]


def test_every_connector_beside_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    llm, asked = tiny_llm("llama"), samples()
    monkeypatch.setattr(tiny_models, "tiny_llm", lambda family: llm)
    models, expected = {}, {}
    for number, variant in enumerate(VARIANTS):
        model = inside(variant)
        torch.manual_seed(number)
        randomise(connector_of(model, variant))
        model.connectors[key_of(variant)].skip_if_zero()
        models[variant], expected[variant] = model, alone(model, asked)
    bare = MultimodalLM(llm, {}, {}, {})
    logits = {str(tokens) for found in expected.values() for tokens, _ in found}
    assert len(logits) > 2 * len(VARIANTS), "connectors that change nothing would prove nothing"
    engine, generators = joined(models)
    assert {one.name for one, mixture in engine._sets.items() if mixture is None} == BY_THEMSELVES
    found = answers([generators[name] for name in models for _ in asked], asked * len(models))
    for number, name in enumerate(models):
        close(found[3 * number : 3 * number + 3], expected[name])
    _leave_the_llm_as_it_was(engine, bare)


def _leave_the_llm_as_it_was(engine: SetsEngine, bare: MultimodalLM) -> None:
    """Removed sets leave no hook behind, and the LLM answers as it did before any of them."""
    llm = bare.llm
    fresh = MultimodalLM(tiny_llm("llama"), {}, {}, {})
    for learned in engine.sets:
        engine.remove(learned)
    assert not engine._mixtures
    hooked = [module for module in llm.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert len(hooked) == len([one for one in fresh.llm.modules() if one._forward_hooks or one._forward_pre_hooks])
    text = samples()[:1]
    ((tokens, logits),), ((own_tokens, own),) = alone(bare, text), alone(fresh, text)
    assert tokens == own_tokens and torch.equal(logits, own)


def test_ranks_scalings_rules_and_bare_rows() -> None:
    """LoRA of several ranks and scalings, one with a rule, two in one set, an inner adaptor, and a set without any."""
    llm, asked = tiny_llm("llama"), samples()
    made = {
        "one": lambda: over(llm, 1, lora=lora(llm, 1)),
        "three": lambda: over(llm, 2, lora=lora(llm, 3)),
        "five": lambda: over(llm, 3, lora=lora(llm, 5), more=lora(llm, 2)),
        "pictures": lambda: over(llm, 4, ("image",), lora=lora(llm, 4)),
        "values": lambda: over(llm, 5, lora=LoraConnector(llm_dim=llm.dim, rank=2, targets=["v_proj"])),
        "inner": lambda: over(llm, 6, inner=InnerAdaptorConnector(llm_dim=llm.dim, after=[1, 3])),
        "bare": lambda: over(llm, 7),
    }
    models, expected = {}, {}
    for name, make in made.items():
        models[name] = make()
        expected[name] = alone(models[name], asked)
    engine, generators = joined(models)
    assert all(mixture is not None for mixture in engine._sets.values())
    # twice: the second time from what was read before, which is each set's own
    for _ in range(2):
        found = answers([generators[name] for name in models for _ in asked], asked * len(models))
        for number, name in enumerate(models):
            close(found[3 * number : 3 * number + 3], expected[name])


def test_adapters_in_an_encoder_work_on_their_own_sets_items() -> None:
    llm, asked = tiny_llm("llama"), samples()
    models, expected = {}, {}
    for name, seed in {"adapted": 0, "plain": 0, "other": 1}.items():
        adapters = {} if name == "plain" else {"adapter": AdaptformerConnector(llm_dim=llm.dim, width=4)}
        models[name] = over(llm, seed, adapts={key: ["image"] for key in adapters}, **adapters)
        expected[name] = alone(models[name], asked)
    assert not torch.equal(expected["adapted"][1][1], expected["plain"][1][1]) and not tiny_vision().adapters
    _, generators = joined(models)
    found = answers([generators[name] for name in models for _ in asked], asked * 3)
    for number, name in enumerate(models):
        close(found[3 * number : 3 * number + 3], expected[name])
    assert not tiny_vision().adapters


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_families_whose_layers_differ(family: str) -> None:
    """Transposed weights, and MLPs that see rows without a batch axis."""
    llm, asked = tiny_llm(family), samples()
    models, expected = {}, {}
    for seed, rank in enumerate((2, 3)):
        models[str(rank)] = over(llm, seed, lora=lora(llm, rank))
        expected[str(rank)] = alone(models[str(rank)], asked)
    _, generators = joined(models)
    found = answers([generators[name] for name in models for _ in asked], asked * 2)
    for number, name in enumerate(models):
        close(found[3 * number : 3 * number + 3], expected[name])
