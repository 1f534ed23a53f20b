"""Which models may let conversations share their beginning, and what the others are told."""

from __future__ import annotations

import pytest

from mmllm.errors import RecipeError
from mmllm.llms.packing import Packing
from mmllm.model.model import MultimodalLM
from mmllm.model.sharing import check_sharing
from tests.support.inside import inside
from tests.support.parts import FAMILIES, tiny_llm


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can(family: str) -> None:
    check_sharing(MultimodalLM(tiny_llm(family), {}, {}, {}), "stages.one")


def test_a_connector_that_reads_text_is_named() -> None:
    with pytest.raises(RecipeError, match=r"stages.one.share_prefix: connectors.image \(IvaConnector\) looks at more"):
        check_sharing(inside("iva from image"), "stages.one")


def test_an_llm_whose_continuations_see_each_other_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attention that passes the tree over: one long conversation instead."""
    model = MultimodalLM(tiny_llm("llama"), {}, {}, {})
    of = Packing.of
    monkeypatch.setattr(Packing, "of", classmethod(lambda cls, bounds, segments=None, here=None: of(bounds)))
    with pytest.raises(RecipeError, match=r"stages.one.share_prefix: LlamaForCausalLM gives another result"):
        check_sharing(model, "stages.one")
