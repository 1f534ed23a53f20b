"""Text of a run beside its bare LLM: equal where what works in the LLM waits for media, else it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmllm.real import text
from tests.support.training import tiny_recipe, train_here


@pytest.mark.parametrize("waits", [True, False])
def test_a_lora_that_waits_for_media_leaves_text_as_it_is(
    waits: bool, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(tmp_path_factory.mktemp("text"), steps=1)
    words = ["connectors.lora.when=[image]"] if waits else []
    train_here(recipe, tmp_path / "run", ["stages.instruct.train={connectors.lora: 0.1}", *words])
    monkeypatch.setattr(text, "PROMPTS", text.PROMPTS[:2])
    monkeypatch.setattr(text, "TEXT", "It rains.")
    monkeypatch.setattr(text, "NEW_TOKENS", 3)
    found = text.compare_text(tmp_path / "run")
    assert found["equal"] is waits and len(found["prompts"]) == 2
    assert (found["perplexity"] == found["perplexity_bare"]) is waits
    assert all(row["logits_equal"] is waits for row in found["prompts"])
    assert (found["furthest_from_transformers"] < 1e-4) is waits
