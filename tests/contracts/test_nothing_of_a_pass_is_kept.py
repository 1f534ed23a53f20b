"""Nothing about a pass is stored on a part: after passes every module holds what it held before, wherever it works."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mmllm.model.model import MultimodalLM
from mmllm.testing.tiny.rows import Row
from tests.support.adapted import ADAPTERS
from tests.support.adapted_assembly import BOTH, PICTURE, adapted_assembly
from tests.support.assemblies import batch_of
from tests.support.inside import VARIANTS, connector_of, inside
from tests.support.parts import randomise
from tests.support.talks import packed
from tests.support.three_senses import TALKS, three_senses

ROWS = (Row(1, (4, "image", 5), source="captions"), Row(2, (11,), source="instruct"))
OWN = ("mmllm.",)
"""Modules whose attributes are looked at; those of torch and transformers are no business of ours."""


def held(model: MultimodalLM) -> dict[str, Any]:
    """Module and attribute -> what it is: the object itself, or the objects in a list, tuple or mapping."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if not type(module).__module__.startswith(OWN):
            continue
        for word, value in vars(module).items():
            found[f"{name}.{word}"] = contents(value)
    return found


def contents(value: Any) -> Any:
    """Identity of a value, down through plain containers; tensors by identity, numbers and texts by value."""
    if isinstance(value, dict):
        return {key: contents(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [contents(inner) for inner in value]
    return value if isinstance(value, int | float | str | bool | type(None)) else id(value)


def train_and_decode(model: MultimodalLM, batch: Any) -> None:
    """A pass of training with its backward, and one of decoding with two steps."""
    model.train()
    learning = [p for p in model.connectors.parameters() if p.is_floating_point()]
    for parameter in learning:
        parameter.requires_grad_(True)
    model.llm.gradient_checkpointing(True)
    model(batch)[0].backward()
    model.llm.gradient_checkpointing(False)
    for parameter in learning:
        parameter.requires_grad_(False)
        parameter.grad = None
    model.eval()
    state = model.prefill(batch)
    for _ in range(2):
        state = model.decode(state, state.logits.argmax(-1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_connectors_inside_the_llm(variant: str) -> None:
    model = inside(variant)
    randomise(connector_of(model, variant))
    batch = batch_of(model, ROWS)
    before = held(model)
    train_and_decode(model, batch)
    after = held(model)
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == set()


@pytest.mark.parametrize("kind", ADAPTERS)
def test_connectors_inside_encoders(kind: str) -> None:
    model = adapted_assembly(kind)
    batch = batch_of(model, (BOTH, PICTURE))
    before = held(model)
    train_and_decode(model, batch)
    after = held(model)
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == set()


def test_several_modalities_in_one_model() -> None:
    model = three_senses()
    before = held(model)
    train_and_decode(model, packed(model, TALKS[:4]))
    after = held(model)
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == set()


def test_what_is_kept_is_found() -> None:
    """The look itself can fail: an attribute, an entry of a dict and an item of a list are all seen."""

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[torch.Tensor] = []

    Keeping.__module__ = "mmllm.example"
    model: Any = nn.ModuleDict({"one": Keeping()})
    before = held(model)
    model["one"].seen.append(torch.zeros(1))
    assert held(model) != before
    model["one"].seen.clear()
    assert held(model) == before
    model["one"].last = 3
    assert held(model) != before
