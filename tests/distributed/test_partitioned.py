"""ZeRO-3 on two ranks: none of them ever holds the whole LLM, and what comes of it is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mmllm.model.build import build
from mmllm.model.trainable import frozen_digests
from mmllm.recipe.load import load_recipe
from mmllm.testing.tiny.llms import tiny_model, tiny_tokenizer
from tests.support.training import tiny_recipe
from tests.support.two_ranks import two_new_ranks

pytestmark = pytest.mark.slow

WIDE = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 9, "head_dim": 256}
"""With the tiny vocabulary 86 million parameters, 340 MB in float32."""


def test_no_rank_holds_the_whole_llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(tmp_path)
    small = yaml.safe_load(recipe.read_text())["llm"]["path"]
    large = tmp_path / "large"
    tiny_model("llama", 1, **WIDE).save_pretrained(large, max_shard_size="20MB")
    tiny_tokenizer().save_pretrained(large)
    assert len(list(large.glob("*.safetensors"))) > 3
    data = yaml.safe_load(recipe.read_text())
    data["llm"]["path"] = str(large)
    recipe.write_text(yaml.safe_dump(data, sort_keys=False))
    monkeypatch.setenv("RECIPE", str(recipe))
    monkeypatch.setenv("SMALL", small)
    # weights of real models are larger than what glibc keeps for the next of its size; these are not
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
    found = two_new_ranks("tests.distributed.partitioned_rank", tmp_path, 280)
    assert found["parts"] == ["llm"]
    size = sum(file.stat().st_size for file in large.glob("*.safetensors"))
    assert found["n_params"] * 4 == pytest.approx(size, rel=0.01)
    assert size > 300e6
    # a half of the weights each, a file's pages and the layer that is gathered
    assert max(found["peaks"]) < 0.6 * size, [peak / size for peak in found["peaks"]]
    assert found["digest"] == frozen_digests(build(load_recipe(recipe), "cpu"), ["llm"])["llm"]
