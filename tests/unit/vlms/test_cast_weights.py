"""Weights whose files hold another dtype are what transformers' own loading gives; others are mapped as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t

from mmllm.llms.causal_lm import CausalLM
from mmllm.testing.tiny.llms import tiny_model, tiny_tokenizer
from mmllm.testing.tiny.published import published_folder
from mmllm.vlms.cast_weights import ADAPTER, from_files


def folder(kind: str, place: Path) -> str:
    """A tiny LLM, or a published model whose text is one, in bfloat16 and in shards."""
    if kind == "published":
        published_folder("Gemma3", place)
        whole: Any = t.AutoModelForImageTextToText.from_pretrained(place)
        (place / "model.safetensors").unlink()
    else:
        tiny_tokenizer().save_pretrained(place)
        whole = tiny_model(kind)
    whole.to(torch.bfloat16).save_pretrained(place, max_shard_size=40_000)
    assert (place / "model.safetensors.index.json").is_file()
    return str(place)


@pytest.mark.parametrize("kind", ["llama", "published"])
def test_what_is_cast_is_what_transformers_casts(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(kind, tmp_path / "model")
    module = "mmllm.vlms.partial" if kind == "published" else "mmllm.llms.load"
    asked: list[bool] = []

    def seen(*given: Any, **words: Any) -> Any:
        found = from_files(*given, **words)
        asked.append(found is not None)
        return found

    monkeypatch.setattr(f"{module}.from_files", seen)
    found = CausalLM.load(path, "float32").model
    CausalLM.load(path, "bfloat16")
    assert asked == [True, False], "files that hold the dtype are mapped"
    monkeypatch.setattr(f"{module}.from_files", lambda *_, **__: None)
    expected = CausalLM.load(path, "float32").model
    tensors, wanted = found.state_dict(), expected.state_dict()
    assert tensors.keys() == wanted.keys() and not found.training
    for name, tensor in wanted.items():
        assert tensor.dtype == tensors[name].dtype == torch.float32 and torch.equal(tensor, tensors[name]), name
    assert found.config.to_dict() == expected.config.to_dict() and found.name_or_path == expected.name_or_path == path
    assert found.generation_config == expected.generation_config


def test_files_that_transformers_has_to_find(tmp_path: Path) -> None:
    kind, config = t.LlamaForCausalLM, t.LlamaConfig()
    assert from_files(kind, str(tmp_path / "nowhere"), config, torch.float32) is None
    path = Path(folder("llama", tmp_path / "model"))
    (path / ADAPTER).write_text("{}")
    assert from_files(kind, str(path), config, torch.float32) is None
