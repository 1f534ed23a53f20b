"""What a connector makes when it is attached is drawn apart from what it made before: no two weights start equal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from mmllm.connectors.base import Connector
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.recipe.load import load_recipe

MINI = Path("recipes/mini")
IN_TWO_PLACES = ("gated_cross_attention", "iva", "layerwise", "points", "text_memory")
"""Recipes of connectors that make weights in ``__init__`` and in ``attach``."""
VALUES = 32
"""Of each tensor; unrelated draws of that many correlated by 0.51 at most here, the same ones by 1."""


def starts(weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """First values of every drawn weight that has as many, centred, of length one: ``(n, VALUES)``."""
    rows = [weight.detach().flatten()[:VALUES] for weight in weights.values() if weight.numel() >= VALUES]
    rows = [row - row.mean() for row in rows if row.std() > 0]
    return torch.stack([row / row.norm() for row in rows])


@pytest.mark.parametrize("name", IN_TWO_PLACES)
def test_weights_of_attach_are_no_copies_of_those_before(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, set[str]] = {}
    make = MultimodalLM.__init__

    def noted(
        self: MultimodalLM, llm: Any, encoders: Any, connectors: Mapping[str, Connector], *more: Any, **words: Any
    ) -> None:
        known.update({key: {n for n, _ in one.named_parameters()} for key, one in connectors.items()})
        make(self, llm, encoders, connectors, *more, **words)

    monkeypatch.setattr(MultimodalLM, "__init__", noted)
    model = build(load_recipe(MINI / f"{name}.yaml"), "cpu")
    met = 0
    for key, names in known.items():
        weights = dict(model.connectors[key].named_parameters())
        before = {n: w for n, w in weights.items() if n in names}
        later = {n: w for n, w in weights.items() if n not in names}
        if before and later:
            met += 1
            assert (starts(before) @ starts(later).T).abs().max() < 0.9
    assert met


def test_weights_do_not_depend_on_the_other_connectors() -> None:
    one, two = (build(load_recipe(MINI / f"{name}.yaml"), "cpu") for name in ("pool", "peft_dora"))
    for name, weight in one.connectors["image"].named_parameters():
        assert torch.equal(weight, two.connectors["image"].get_parameter(name))
