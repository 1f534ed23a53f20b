"""Which connectors need whole prompts, and families whose windows are shorter than a conversation, read in pieces.

That the others give the logits of the whole pass is a rule of ``check_llm_adapter`` and ``check_deep_fusion``.
"""

from __future__ import annotations

import pytest
import torch

from mmllm.model.reading import obstacles
from mmllm.testing.pieces import difference
from mmllm.testing.tiny.models import ROWS
from mmllm.testing.tiny.rows import Row
from tests.support.inside import VARIANTS, connector_of, inside
from tests.support.parts import FAMILIES, randomise

WHOLE = {"iva from image"}
"""Those that need a whole prompt in one pass: a question chooses frames by the mean of all of its words."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_connectors_that_need_whole_prompts_are_named(variant: str) -> None:
    model = inside(variant)
    assert connector_of(model, variant).goes_on == (variant not in WHOLE)
    named = [f"connectors.image ({type(connector_of(model, variant)).__name__}) reads whole prompts"]
    assert obstacles(model) == (named if variant in WHOLE else [])


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_pieces_in_every_family(family: str) -> None:
    """Sliding windows, soft-caps, learned positions and shared key heads as in the whole pass."""
    model = inside("lora", family)
    randomise(connector_of(model, "lora"))
    assert obstacles(model) == []
    assert difference(model, (*ROWS, Row(9, (40, "image", 9)))) < 5e-5
