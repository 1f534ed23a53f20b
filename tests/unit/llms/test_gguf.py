"""``llm: {path: file.gguf}``: the logits and tokens of the model it was made from, and all that its keys say."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from mmllm.errors import MmllmError
from mmllm.llms import gguf_cache
from mmllm.llms.causal_lm import CausalLM
from mmllm.llms.gguf_config import llama3_factors
from mmllm.testing.tiny.llms import CHAT_TEMPLATE, tiny_model, tiny_tokenizer
from tests.support.gguf_files import write_gguf

IDS = torch.arange(60)[None] * 5 % 384
TEXT = "What is on the sign? Total 12.50 EUR.\n  naïve <|im_start|>"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Every test has a cache of its own."""
    monkeypatch.setenv("MMLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@torch.no_grad()
def logits(model) -> torch.Tensor:
    """float[60, V]."""
    return model(input_ids=IDS).logits[0]


def rounded(model, kind: str):
    """The model with its matrices as the file kind holds them."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                stored = GGMLQuantizationType[kind]
                weight.copy_(torch.tensor(quants.dequantize(quants.quantize(weight.numpy(), stored), stored)))
    return model


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"attention_bias": True, "vocab_size": 416}),
        ("qwen2", {}),
        ("qwen3", {}),
    ],
)
def test_logits_tokens_and_template_are_the_originals(family, changes, kind, tmp_path) -> None:
    changes = {"hidden_size": 64, "intermediate_size": 64, **changes}  # blocks of Q8_0 hold 32 weights
    if family != "qwen2":
        changes["head_dim"] = 16
    model, tokenizer = tiny_model(family, **changes), tiny_tokenizer()
    file = write_gguf(tmp_path / "m.gguf", model, tokenizer, kind)
    expected = logits(rounded(model, kind))
    llm = CausalLM.load(str(file), "float32")
    torch.testing.assert_close(logits(llm.model), expected, atol=1e-5, rtol=1e-5)
    assert llm.tokenizer(TEXT).input_ids == tokenizer(TEXT).input_ids
    assert llm.tokenizer.chat_template == CHAT_TEMPLATE
    assert llm.tokenizer.eos_token == "<|im_end|>"


def test_a_file_is_converted_once_and_a_changed_one_anew(tmp_path, cache) -> None:
    file = write_gguf(tmp_path / "m.gguf", tiny_model(), tiny_tokenizer())
    CausalLM.load(str(file), "float32")
    (entry,) = [one for one in cache.iterdir() if one.is_dir()]
    stamp = (entry / "model.safetensors").stat().st_mtime_ns
    CausalLM.load(str(tmp_path), "float32")
    assert (entry / "model.safetensors").stat().st_mtime_ns == stamp
    other = tiny_model(seed=1)
    write_gguf(file, other, tiny_tokenizer())
    assert torch.equal(logits(CausalLM.load(str(file), "float32").model), logits(other))
    CausalLM.load(str(file), "bfloat16")
    assert len([one for one in cache.iterdir() if one.is_dir()]) == 3


def test_an_entry_that_was_cut_off_is_made_anew(tmp_path, cache) -> None:
    model = tiny_model()
    file = write_gguf(tmp_path / "m.gguf", model, tiny_tokenizer())
    CausalLM.load(str(file), "float32")
    weights = next(cache.glob("*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:5000])
    assert torch.equal(logits(CausalLM.load(str(file), "float32").model), logits(model))


def test_a_cache_that_cannot_be_written_is_said_and_done_without(tmp_path, monkeypatch, caplog) -> None:
    model = tiny_model()
    file = write_gguf(tmp_path / "m.gguf", model, tiny_tokenizer())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMLLM_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, gguf_cache.__name__):
        assert torch.equal(logits(CausalLM.load(str(file), "float32").model), logits(model))
    assert "cannot keep the model" in caplog.text and "MMLLM_CACHE" in caplog.text


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192, "rope_theta": 500000.0,
}  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize(
    ("rope", "keys"),
    [
        (YARN, {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32}),
        (LINEAR, {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}),
        (LINEAR, {"rope.scale_linear": 2.0}),
        (LLAMA3, {}),
    ],
)
def test_scaled_rotary_positions_are_kept(family, rope, keys, tmp_path) -> None:
    """transformers drops these keys and the table without a word."""
    model = tiny_model(family, rope_parameters=rope)
    table = {"rope_freqs.weight": llama3_factors(5e5, 8, LLAMA3).numpy()} if rope is LLAMA3 else {}
    file = write_gguf(tmp_path / "m.gguf", model, tiny_tokenizer(), keys=keys, tensors=table)
    found = logits(CausalLM.load(str(file), "float32").model)
    torch.testing.assert_close(found, logits(model), atol=1e-5, rtol=1e-5)
    plain = tiny_model(family, rope_parameters={"rope_type": "default", "rope_theta": rope["rope_theta"]})
    assert rope is LLAMA3 or (found - logits(plain)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("keys", "tensors", "sentence"),
    [
        ({"rope.scaling.type": "longrope", "rope.scaling.factor": 4.0}, {}, "by 'longrope' with tables of its own"),
        ({"rope.scaling.type": "yarn"}, {}, "yarn without a factor"),
        ({}, {"rope_freqs.weight": numpy.full(4, 3.0, "float32")}, "that is not Llama 3's"),
        ({}, {"blk.0.attn_sinks.weight": numpy.ones(4, "float32")}, r"holds \d+ weights, but the llama model"),
    ],
)
def test_what_would_be_lost_is_refused(keys, tensors, sentence, tmp_path) -> None:
    file = write_gguf(tmp_path / "m.gguf", tiny_model(), tiny_tokenizer(), keys=keys, tensors=tensors)
    with pytest.raises(MmllmError, match=sentence):
        CausalLM.load(str(file), "float32")


def test_an_unknown_rule_of_splitting_wants_the_originals_tokenizer(tmp_path) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    file = write_gguf(tmp_path / "m.gguf", model, tokenizer, rule="new-rule")
    with pytest.raises(MmllmError, match=r"splits text by the rule 'new-rule', .* hf download MODEL --include"):
        CausalLM.load(str(file))
    tokenizer.save_pretrained(tmp_path)
    assert CausalLM.load(str(file)).tokenizer(TEXT).input_ids == tokenizer(TEXT).input_ids
    content = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(
        content.replace('"#": ', '"swap": ').replace('"$": ', '"#": ').replace('"swap": ', '"$": ')
    )
    with pytest.raises(MmllmError, match=r"tokenizer\.json beside .* is another model's"):
        CausalLM.load(str(file))


def test_digits_apart(tmp_path) -> None:
    """SmolLM2's rule, which transformers takes for GPT-2's."""
    from tokenizers import pre_tokenizers

    tokenizer = tiny_tokenizer()
    apart = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [apart, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    file = write_gguf(tmp_path / "m.gguf", tiny_model(), tokenizer, rule="smollm")
    found = CausalLM.load(str(file)).tokenizer
    assert found(TEXT).input_ids == tokenizer(TEXT).input_ids != tiny_tokenizer()(TEXT).input_ids


def test_which_file(tmp_path) -> None:
    """A folder with one, with several, with safetensors beside, and files that are not there."""
    model = tiny_model()
    write_gguf(tmp_path / "a.gguf", model, tiny_tokenizer())
    write_gguf(tmp_path / "b.gguf", tiny_model(seed=1), tiny_tokenizer())
    with pytest.raises(MmllmError, match=r"2 GGUF files; say which with llm\.file: a\.gguf, b\.gguf"):
        CausalLM.load(str(tmp_path))
    assert torch.equal(logits(CausalLM.load(str(tmp_path), "float32", file="a.gguf").model), logits(model))
    with pytest.raises(MmllmError, match=r"no GGUF file 'c\.gguf'; it has a\.gguf, b\.gguf"):
        CausalLM.load(str(tmp_path), file="c.gguf")
    with pytest.raises(MmllmError, match=r"fetched first: hf download org/model-GGUF a\.gguf --local-dir"):
        CausalLM.load("org/model-GGUF", file="a.gguf")
    with pytest.raises(MmllmError, match="there is no file"):
        CausalLM.load(str(tmp_path / "c.gguf"))
    with pytest.raises(MmllmError, match=r"llm\.file: 'a\.gguf', but llm\.path is a file already"):
        CausalLM.load(str(tmp_path / "a.gguf"), file="a.gguf")
    other = tiny_model(seed=2)
    other.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert torch.equal(logits(CausalLM.load(str(tmp_path), "float32").model), logits(other))


def test_files_that_are_no_whole_language_model(tmp_path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", tiny_model(), tiny_tokenizer()).read_bytes()
    for name, content, sentence in (
        ("zeros", b"GGUF" + bytes(64), "is damaged, cut off or no GGUF file"),
        ("text", b"hello", "is damaged, cut off or no GGUF file"),
        ("cut", whole[: len(whole) // 2], "is damaged, cut off or no GGUF file"),
        ("unknown", whole.replace(b"llama", b"vogon"), "of architecture vogon, cannot be loaded by transformers"),
    ):  # fmt: skip
        (tmp_path / f"{name}.gguf").write_bytes(content)
        with pytest.raises(MmllmError, match=sentence):
            CausalLM.load(str(tmp_path / f"{name}.gguf"))


def test_pieces_and_projectors_are_named(tmp_path) -> None:
    from gguf import GGUFWriter

    for name, architecture, sentence in (
        ("piece", "llama", r"is one of 3 pieces; join them first: llama-gguf-split --merge piece\.gguf"),
        ("mmproj", "clip", "is no language model but a file of kind mmproj"),
    ):
        writer = GGUFWriter(tmp_path / f"{name}.gguf", architecture)
        if name == "piece":
            writer.add_uint16("split.count", 3)
        writer.add_tensor("x.weight", numpy.ones(4, "float32"))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(MmllmError, match=sentence):
            CausalLM.load(str(tmp_path / f"{name}.gguf"))
