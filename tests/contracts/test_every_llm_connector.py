"""The contract of every connector inside the LLM, on every family.

``python -m tests.contracts.test_every_llm_connector write NAME`` writes the golden list of trainable names of a
connector.
"""

from __future__ import annotations

import sys
from itertools import permutations

import pytest
import torch

from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from mmllm.testing import check_deep_fusion, check_llm_adapter
from tests.support.assemblies import batch_of
from tests.support.forward import logits
from tests.support.inside import ROWS, VARIANTS, connector_of, grid_of, inside, key_of, tiny_of
from tests.support.parts import FAMILIES, randomise
from tests.support.places import GOLDEN

ALWAYS = ("llama", "gemma2")
"""Plain, and with windows, caps and norms behind each part; the rules of models that are not causal take these two."""
OTHERS = [family for family in FAMILIES if family not in ALWAYS]
ON_LINEAR = ("lora", "moe_lora", "hydra", "peft")
"""Those that work on single linear layers, which are Conv1D in GPT-2."""


def families_of(number: int, variant: str) -> list[str]:
    """Of the others two, going round: connectors meet families at hook points alone, which have tests of their own."""
    found = [*ALWAYS, *(OTHERS[(2 * number + more) % len(OTHERS)] for more in (0, 1))]
    return [*found, "gpt2"] if variant in ON_LINEAR and "gpt2" not in found else found


MATRIX = [(family, variant) for number, variant in enumerate(VARIANTS) for family in families_of(number, variant)]


@pytest.mark.parametrize(("family", "variant"), MATRIX)
def test_every_connector_inside_the_llm(family: str, variant: str) -> None:
    if key_of(variant) == "image":
        check_deep_fusion(tiny_of(variant), family=family, grid=grid_of(variant))
    else:
        check_llm_adapter(tiny_of(variant), family=family)


def test_each_family_is_met_by_several_connectors_of_either_kind() -> None:
    for family in FAMILIES:
        met = [variant for other, variant in MATRIX if other == family]
        assert sum(key_of(variant) == "image" for variant in met) >= 1, family
        assert sum(key_of(variant) == "inner" for variant in met) >= 2, family


def removed(model: MultimodalLM, variant: str) -> MultimodalLM:
    """The model with the tested connector taken out of the LLM."""
    model.handles[key_of(variant)].remove()
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_golden_names(variant: str) -> None:
    """What learns is called what it was called: checkpoints stay readable."""
    assert golden(variant) == (GOLDEN / f"{variant.replace(' ', '_')}.txt").read_text().split("\n")[:-1]


def golden(variant: str) -> list[str]:
    """Names and shapes of the tested connector's learned tensors on the Llama family."""
    model = inside(variant)
    prefix = f"connectors.{key_of(variant)}."
    learned = trainable.trainable_state(model).items()
    return [f"{name.removeprefix(prefix)} {list(t.shape)}" for name, t in learned if name.startswith(prefix)]


PAIRS = [pair for pair in permutations(("lora", "inner_adaptor", "moe_lora", "pill", "llama_adapter"), 2)]


@pytest.mark.parametrize(("one", "two"), PAIRS)
@torch.no_grad()
def test_several_at_once_in_any_order(one: str, two: str) -> None:
    """Both work together; each removed leaves exactly the other; both removed leave the LLM."""
    model = inside(one)
    randomise(connector_of(model, one))
    batch = batch_of(model, ROWS)
    alone = logits(model, batch)
    second = tiny_of(two)(llm_dim=model.llm.dim).bind("second")
    handle = second.attach(model.llm)
    second.eval()
    randomise(second, seed=6)
    model.connectors["second"] = second
    both = logits(model, batch)
    assert not torch.allclose(both, alone, atol=1e-3)
    handle.remove()
    assert torch.equal(logits(model, batch), alone)
    handle = second.attach(model.llm)
    assert torch.allclose(logits(model, batch), both, atol=1e-6)
    removed(model, one)
    only = logits(model, batch)
    assert not torch.allclose(only, both, atol=1e-3)
    handle.remove()
    del model.connectors["second"]
    assert torch.equal(logits(model, batch), logits(removed(inside(one), one), batch))


if __name__ == "__main__":
    command, *names = sys.argv[1:]
    assert command == "write"
    GOLDEN.mkdir(exist_ok=True)
    for chosen in VARIANTS:
        if chosen.removesuffix(" from image") in names:
            (GOLDEN / f"{chosen.replace(' ', '_')}.txt").write_text("".join(f"{line}\n" for line in golden(chosen)))
