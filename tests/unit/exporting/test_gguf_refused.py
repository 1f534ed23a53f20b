"""What `mmllm export --to gguf` refuses: assemblies, tokenizers and LLMs that llama.cpp does not compute, and words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import models, normalizers, pre_tokenizers

from mmllm.errors import MmllmError
from mmllm.exporting import export
from mmllm.exporting.export import export_run
from mmllm.exporting.gguf.vocabulary import Vocabulary
from mmllm.recipe.load import dump, load_recipe
from mmllm.testing.tiny.llms import tiny_llm_folder
from tests.support.gguf_runs import AROUND, SHUFFLE, byte_level, changed, new_folder

REFUSED = {
    "connectors.lora={type: lora, rank: 2, dropout: 0.1, when: [image]}": "works only in conversations with image",
    "connectors.lora={type: series_adapter}": "SeriesAdapterConnector) works inside a frozen part",
    "connectors.image={type: resampler, from: image, latents: 4}": "connectors.image is ResamplerConnector",
    "connectors.image={type: gated_cross_attention, from: image}": "connectors.image is GatedCrossAttentionConnector",
    "connectors.image.depth=3": "its projector is two layers with GELU between, and connectors.image is not",
    "connectors.image.activation=silu": "two layers with GELU between",
    "connectors.image.norm=rms": "its mlp has no norm, or a LayerNorm behind a tower with a class token",
    "connectors.image={type: pool, from: image, grid: [2, 2]}": "its pooling is Gemma 3's",
    "connectors.image={type: pixel_shuffle, from: image, norm: false, depth: 1}": "is its idefics3, which cuts every",
    SHUFFLE: "its pixel shuffle stands behind towers with a class token",
    AROUND: "writes ['', ''], and connectors.image has around: ['<img>', '</img>']; --allow text",
    "connectors.image.attends=bidirectional": "are read one after the other, and connectors.image says otherwise",
    "encoders.image.fit=crop": "this run has fit: crop; --allow pixels writes it",
    "encoders.image.draft=true": "this run's encoder has draft: true",
    "encoders.image.image_size=42": "and this run's are of another (image_size)",
    "encoders.image.layers=[0]": "what enters the first (layers: [0])",
    "encoders.image={type: patches, patch: 7}": "its towers are CLIP, SigLIP and their like",
    "encoders.image={type: tiles, image: {type: hf_vision, model: SIGLIP}}": "its towers are CLIP, SigLIP",
    "encoders={image: {type: hf_vision, model: SIGLIP}, other: {type: hf_vision, model: SIGLIP}}": "it has one tower",
    "llm.attention=prefix": "its LLM is causal in texts",
    "llm.path=GPT2": "of this kind of LLM (gpt2) no layout is known here",
    "llm.path=WINDOWED": "and this LLM a window of 6 of its 256 positions",
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_llama_cpp_cannot_hold_is_refused(
    change: str, gguf_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = change.replace("SIGLIP", str(gguf_run.parent / "tiny-siglip-0"))
    for word, family in (("GPT2", "gpt2"), ("WINDOWED", "mistral")):
        if word in told:
            told = told.replace(word, str(tiny_llm_folder(gguf_run.parent, family)))
    overrides = [told]
    if "other:" in told:
        overrides.append("connectors.image={type: concat, from: [image, other]}")
    recipe, model = changed(gguf_run, *overrides)
    monkeypatch.setattr(export, "load_run", lambda *_: (recipe, model))
    with pytest.raises(MmllmError) as found:
        export_run(gguf_run, "gguf", tmp_path / "out")
    assert REFUSED[change] in str(found.value) and len(str(found.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made: setattr(made, "normalizer", normalizers.Lowercase()), "it prepares text by Lowercase"),
        (lambda made: setattr(made, "pre_tokenizer", pre_tokenizers.Whitespace()), "it splits text by Whitespace"),
        (lambda made: setattr(made, "model", models.WordLevel({"a": 0}, "a")), "its pieces are of the kind WordLevel"),
        (
            lambda made: setattr(made, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
            "byte-level rules without a blank in front are known",
        ),
    ],
)
def test_tokenizers_that_it_has_no_words_for_are_refused(change: Any, said: str) -> None:
    tokenizer = byte_level("gpt-2")
    change(tokenizer.backend_tokenizer)
    with pytest.raises(MmllmError, match="no words for this run's tokenizer; .*" + re.escape(said)):
        Vocabulary(tokenizer, 400)


@pytest.mark.parametrize(
    ("change", "said"),
    [('llm.tokens=["<here>"]', "tokens of its own (llm.tokens)"), ("llm.quantize=int8", "its LLM is quantised")],
)
def test_llms_that_no_form_holds_are_refused(change: str, said: str, gguf_run: Path, tmp_path: Path) -> None:
    other = new_folder(tmp_path / "run")
    changed_recipe = load_recipe(gguf_run.parent / "recipe.yaml", [change])
    (other / "recipe.yaml").write_text(dump(changed_recipe), encoding="utf-8")
    with pytest.raises(MmllmError, match=re.escape(said)):
        export_run(other, "gguf", tmp_path / "out")


@pytest.mark.parametrize(
    ("form", "words", "said"),
    [
        ("gguf", {"dtype": "q4"}, "--dtype q4 is unknown; known: float32, float16, bfloat16"),
        ("gguf", {"allow": ["colours"]}, "--allow colours is unknown; known: pixels, text, class-token"),
        ("llm", {"dtype": "float16"}, "--dtype says nothing of --to llm"),
    ],
)
def test_words_that_say_nothing_are_refused(
    form: str, words: dict[str, Any], said: str, gguf_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(MmllmError, match=re.escape(said)):
        export_run(gguf_run, form, tmp_path / "out", **words)
    assert not list(tmp_path.iterdir())
