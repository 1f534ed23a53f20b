"""`mmllm export --to gguf`: llama.cpp gives the ids, picture tokens, logits and answers of a run, or nothing stays."""

from __future__ import annotations

import io
import json
import re
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges

import mmllm
from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.checkpoints.load import load_run
from mmllm.cli import main
from mmllm.errors import MmllmError
from mmllm.exporting import export
from mmllm.exporting.export import export_run
from mmllm.exporting.gguf import mmproj, reading_back, text_model, towers, vocabulary, whole
from mmllm.exporting.gguf.llama_cpp import Picture, Task
from mmllm.exporting.gguf.reading_back import lacking, run_llama_cpp
from mmllm.exporting.gguf.vocabulary import RULES, Vocabulary
from mmllm.llms.causal_lm import CausalLM
from mmllm.messages.tokenize import Prompter
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.published.comparison import Stage
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import picture
from mmllm.recipe.load import dump, load_recipe
from mmllm.testing.tiny.encoders import write_clip
from mmllm.testing.tiny.llms import CHAT_TEMPLATE, CORPUS, tiny_llm, tiny_llm_folder, tiny_model
from mmllm.testing.tiny.published import CASES, published_folder
from mmllm.types import Message, Sample
from tests.support.parts import tiny_vision_folder
from tests.support.training import finish, start, tiny_recipe, train_here

reads_back = pytest.mark.skipif(lacking() is not None, reason=f"llama.cpp: {lacking()}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP tower, an mlp and a Llama with LoRA, assembled by hand and trained."""
    folder = tmp_path_factory.mktemp("gguf")
    siglip = tiny_vision_folder(folder, "siglip")
    recipe = tiny_recipe(folder, steps=3)
    recipe.write_text(recipe.read_text().replace(str(folder / "tiny-clip-0"), str(siglip)), encoding="utf-8")
    assert finish(start(train_here, recipe, folder / "run")) == [0]
    write_clip(
        str(_made(folder / "open-clip")),
        {"image_size": 32, "patch_size": 8, "width": 16, "head_width": 8, "layers": 3},
        {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
    )
    return folder / "run"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def changed(run: Path, *overrides: str) -> tuple[Any, MultimodalLM]:
    """Recipe and model of the run with other words, and connectors with numbers that show."""
    told = [one.replace("CLIP", str(run.parent / "tiny-clip-0")) for one in overrides]
    recipe = load_recipe(
        run.parent / "recipe.yaml", [one.replace("OPEN", str(run.parent / "open-clip")) for one in told]
    )
    model = build(recipe, "cpu")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.connectors.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return recipe, model


def llm_alone(model: MultimodalLM, folder: Path, **words: Any) -> list[Stage]:
    return list(whole.write(SimpleNamespace(name="tiny"), model, folder, **words))  # type: ignore[arg-type]


def of(llm: CausalLM) -> MultimodalLM:
    return MultimodalLM(llm, {}, {}, {}).requires_grad_(False).eval()


@reads_back
def test_a_run_assembled_by_hand_answers_in_llama_cpp(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export", str(run), "--to", "gguf", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for stage in ("ids of text 4", "logits (text)", "tokens (333 x 250)", "logits (120 x 200)", "answer (28 x 28)"):
        assert f"equal: {stage}" in said
    files = ["README.md", "mmllm_export.json", "mmproj.gguf", "model.gguf"]
    assert sorted(one.name for one in out.iterdir()) == files
    stages = json.loads((out / "mmllm_export.json").read_text())["stages"]
    assert max(stage["difference"] for stage in stages if stage["name"].startswith("tokens")) <= 1e-3
    # and by llama.cpp alone, about another picture
    model, image = load_run(run, "cpu")[1], picture(28, 28).rotate(90)
    numpy.save(tmp_path / "image.npy", numpy.asarray(image))
    asked = "<|im_start|>user\n<__media__>\nWhat is on it?<|im_end|>\n<|im_start|>assistant\n"
    task = Task(
        str(out / "model.gguf"), [], asked, 6, 128, 1, str(out / "mmproj.gguf"),
        [Picture("one", str(tmp_path / "image.npy"), asked)],
    )  # fmt: skip
    found = run_llama_cpp(task, tmp_path)
    tokens = _tokens(model, image)
    spread = float(tokens.max() - tokens.min())
    assert found["one/tokens"].shape == (16, 32)
    assert numpy.abs(found["one/tokens"] - tokens.numpy()).max() <= 1e-3 * spread
    answer = model.llm.tokenizer.decode(found["one/answer"], skip_special_tokens=True).rstrip("\ufffd").strip()
    assert mmllm.load(run).chat("What is on it?", image=image, max_new_tokens=6).strip() == answer


@torch.inference_mode()
def _tokens(model: MultimodalLM, image: Any) -> torch.Tensor:
    sample = Sample("one", (Message("user", "<image>What is on it?"),), {"image": (image,)})
    encoded = encode(sample, Prompter(model.llm.tokenizer, model.places), model.inputs, 128, train=False)
    batch = collate([encoded], model.inputs)
    return model.embed(batch)[1][batch.media_positions["image"]]


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 3.1": ("llama", {"rope_parameters": LLAMA3}),
    "Llama, stretched, with biases and a tied head": (
        "llama",
        {
            "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
            "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
        },
    ),
    "Mistral": ("mistral", {"sliding_window": None}),
    "Qwen2": ("qwen2", {}),
    "Qwen3": ("qwen3", {}),
    "Gemma 2": ("gemma2", {}),
    "Gemma 3": ("gemma3", {}),
}  # fmt: skip


@reads_back
@pytest.mark.parametrize("case", FAMILIES)
def test_llms_give_the_logits_of_the_run(case: str, tmp_path: Path) -> None:
    family, changes = FAMILIES[case]
    stages = llm_alone(of(tiny_llm(family, **changes)), tmp_path)
    assert [stage.name for stage in stages[-3:]] == ["ids (text)", "logits (text)", "answer (text)"]
    assert all(stage.equal for stage in stages)
    assert stages[-2].limit == (5e-3 if "Gemma" in case else 1e-4)


def byte_level(rule: str, digits: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of the rule, one of llama.cpp's names; ``llama-bpe`` with a beginning in front of every text."""
    starts = rule == "llama-bpe"
    made = Tokenizer(models.BPE(ignore_merges=starts))
    known = {name: split for (split, _), name in RULES.items()}
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule not in known)]
    if rule in known:
        steps.insert(0, pre_tokenizers.Split(Regex(known[rule]), "isolated"))
    elif digits:
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    words = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<s>"]
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=384, special_tokens=special, **words))
    return _dressed(made, starts, pad_token="<|pad|>", eos_token="<|im_end|>")


def of_sentencepiece(first: bool) -> PreTrainedTokenizerFast:
    """SentencePiece's BPE as transformers holds it; ``first``: a blank in front of every text."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=written, vocab_size=340, model_type="bpe", byte_fallback=True,
        add_dummy_prefix=first, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        character_coverage=1.0,
    )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    vocab = {pieces.id_to_piece(n): n for n in range(pieces.vocab_size())}
    merges = generate_merges(vocab, {piece: pieces.get_score(n) for piece, n in vocab.items()})
    made = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    blanks = [normalizers.Prepend("\u2581")] if first else []
    made.normalizer = normalizers.Sequence([*blanks, normalizers.Replace(" ", "\u2581")])
    strip = [decoders.Strip(" ", 1, 0)] if first else []
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return _dressed(made, True, unk_token="<unk>", eos_token="</s>")


def _dressed(made: Tokenizer, starts: bool, **words: str) -> PreTrainedTokenizerFast:
    if starts:
        number = made.token_to_id("<s>")
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", number)]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", **words)
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    fast.chat_template = ("{{ bos_token }}" if starts else "") + CHAT_TEMPLATE
    return fast


TOKENIZERS = {
    "smollm": lambda: byte_level("smollm", digits=True),
    "llama-bpe": lambda: byte_level("llama-bpe"),
    "qwen2": lambda: byte_level("qwen2"),
    "SentencePiece": lambda: of_sentencepiece(first=True),
    "SentencePiece without a blank in front": lambda: of_sentencepiece(first=False),
}


@reads_back
@pytest.mark.parametrize("case", TOKENIZERS)
def test_texts_have_the_ids_of_the_run(case: str, tmp_path: Path) -> None:
    tokenizer: PreTrainedTokenizerBase = TOKENIZERS[case]()
    stages = llm_alone(of(CausalLM(tiny_model("llama"), tokenizer, tolerance=float("inf"))), tmp_path)
    assert [stage for stage in stages if not stage.equal] == []
    assert len([stage for stage in stages if stage.name.startswith("ids of text")]) == len(reading_back.TEXTS)
    keys = GGUFReader(tmp_path / "model.gguf").fields
    rule = "default" if case.startswith("Sentence") else case
    assert keys["tokenizer.ggml.pre"].contents() == rule
    assert keys["tokenizer.ggml.add_bos_token"].contents() == (rule in ("default", "llama-bpe"))
    template = keys["tokenizer.chat_template"].contents()
    assert "generation" not in template.replace("add_generation_prompt", "")
    assert template.count("{% if") == template.count("{% endif")


AROUND = 'connectors.image.around=["<img>", "</img>"]'
CLIP, OPEN = "encoders.image.model=CLIP", "encoders.image={type: open_clip, model: OPEN, layers: [-2]}"
GEMMA = (
    "connectors.image={type: pool, from: image, grid: [2, 2], norm: rms, norm_after: true, depth: 1, bias: false, "
    'eps: 1.0e-6, attends: bidirectional, around: ["<start_of_image>", "<end_of_image>"]}'
)
SHUFFLE = "connectors.image={type: pixel_shuffle, from: image}"
ASSEMBLIES: dict[str, tuple[str, list[str], list[str]]] = {
    "several layers, out of order": ("mlp", ["encoders.image.layers=[final, 1]"], []),
    "CLIP and an mlp with a norm": ("internvl", [CLIP, "connectors.image.norm=true", AROUND], []),
    "open_clip and a pixel shuffle": ("internvl", [OPEN, SHUFFLE, AROUND], []),
    "Gemma 3's pooling": ("gemma3", ["encoders.image.layers=[final]", GEMMA], ["pixels"]),
    "cropped pictures": ("mlp", ["encoders.image.fit=crop"], ["pixels"]),
    "text around pictures": ("mlp", [AROUND], ["text"]),
}


@reads_back
@pytest.mark.parametrize("case", ASSEMBLIES)
def test_pictures_have_the_tokens_of_the_run(case: str, run: Path, tmp_path: Path) -> None:
    kind, overrides, allowed = ASSEMBLIES[case]
    recipe, model = changed(run, *_with_clip(run, overrides))
    stages = list(whole.write(recipe, model, tmp_path, allow=allowed))
    assert [stage for stage in stages if not stage.equal] == []
    names = [stage.name for stage in stages]
    pictures = [name for name in names if name.startswith("tokens (")]
    assert len(pictures) == (1 if "pixels" in allowed else 3)
    assert any(name.startswith("answer (") and " x " in name for name in names) == ("text" not in allowed)
    assert GGUFReader(tmp_path / "mmproj.gguf").fields["clip.projector_type"].contents() == kind


def _with_clip(run: Path, overrides: list[str]) -> list[str]:
    if CLIP in overrides and not (run.parent / "tiny-clip-0").exists():
        tiny_vision_folder(run.parent, "clip")
    return overrides


@reads_back
def test_a_published_internvl_is_written(tmp_path: Path) -> None:
    made = CASES["InternVL"]
    import_checkpoint(str(published_folder(made.name, tmp_path / "vlm", **made.changes)), tmp_path / "run", tiles=False)
    with pytest.raises(MmllmError, match="<video> of this run is video; --allow no-clips leaves it out"):
        export_run(tmp_path / "run", "gguf", tmp_path / "out")
    stages = export_run(tmp_path / "run", "gguf", tmp_path / "out", allow=["no-clips"])
    assert [stage.name for stage in stages][-5:] == [
        f"{what} (120 x 200){unit}"
        for what, unit in (("pixels", ", in 1/255"), ("tokens", ""), ("ids", ""), ("logits", ""), ("answer", ""))
    ]


def test_it_says_why_llama_cpp_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_back.importlib.util, "find_spec", lambda name: None)
    assert lacking() == 'it is not installed: pip install "mmllm[gguf]"'
    monkeypatch.setattr(reading_back.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(reading_back.importlib.metadata, "version", lambda name: "2030.1.1")
    assert lacking() == "xllamacpp 2030.1.1 is not a release that is known here: 2026.10.11549"


@reads_back
def test_a_class_token_in_front_of_an_mlp_is_written_for_builds_that_read_it(run: Path, tmp_path: Path) -> None:
    recipe, model = changed(run, *_with_clip(run, [CLIP]))
    with pytest.raises(MmllmError, match=r"its issue 25814\); give connectors.image norm: true"):
        list(whole.write(recipe, model, tmp_path))
    stages = list(whole.write(recipe, model, tmp_path, allow=["class-token"]))
    compared = [stage for stage in stages if "in their order" in stage.name]
    assert len(compared) == 3 and all(stage.equal for stage in compared)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["mmproj.gguf", "model.gguf"]
    (positions,) = [one for one in GGUFReader(tmp_path / "mmproj.gguf").tensors if one.name == towers.POSITIONS]
    own = model.encoders["image"].vision.state_dict()  # type: ignore[union-attr, operator]
    (table,) = [tensor for name, tensor in own.items() if name.endswith("position_embedding.weight")]
    assert numpy.array_equal(positions.data, table.numpy())


@reads_back
def test_gemma_1_and_2_have_their_pictures_scaled(run: Path, tmp_path: Path) -> None:
    folder = tiny_llm_folder(tmp_path, "gemma2")
    recipe, model = changed(run, f"llm.path={folder}")
    stages = list(whole.write(recipe, model, _made(tmp_path / "out")))
    assert [stage for stage in stages if not stage.equal] == []


@reads_back
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_matrices_are_rounded_once_they_are_compared(dtype: str, run: Path, tmp_path: Path) -> None:
    stages = export_run(run, "gguf", tmp_path / "out", dtype=dtype)
    last = stages[-1]
    assert last.name == f"logits (text), rounded to {dtype}" and 1e-6 < last.difference <= last.limit
    kinds = {name: GGUFReader(tmp_path / "out" / name).tensors for name in ("model.gguf", "mmproj.gguf")}
    rounded = GGMLQuantizationType.F16 if dtype == "float16" else GGMLQuantizationType.BF16
    for tensors in kinds.values():
        for one in tensors:
            whole_tensor = len(one.shape) == 1 or one.name in (towers.PATCHES, towers.POSITIONS)
            assert one.tensor_type == (GGMLQuantizationType.F32 if whole_tensor else rounded), one.name


def test_without_llama_cpp_it_says_what_is_unverified(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(whole, "lacking", lambda: 'it is not installed: pip install "mmllm[gguf]"')
    monkeypatch.setattr(reading_back, "run_llama_cpp", lambda *_: pytest.fail("llama.cpp was asked"))
    assert main(["export", str(run), "--to", "gguf", "--out", str(tmp_path / "out"), "--dtype", "float16"]) == 0
    said = capsys.readouterr().out
    assert 'it is not installed: pip install "mmllm[gguf]"' in said and "unverified" in said
    assert "equal: logits (text), by transformers" in said and "equal: ids" not in said and "tokens (" not in said
    assert (tmp_path / "out" / "model.gguf").exists()


@reads_back
@pytest.mark.parametrize(
    ("place", "name", "other", "first"),
    [
        (text_model, "_paired", lambda tensor, heads: tensor, "logits (text)"),
        (vocabulary, "_rule", lambda *_: "qwen2", "ids of text"),
        (towers, "_activation", lambda name: "quick_gelu", "tokens (28 x 28)"),
        (mmproj, "_other_pixels", lambda *_: None, "pixels (333 x 250)"),
    ],
)
def test_nothing_is_written_that_differs(
    place: Any, name: str, other: Any, first: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, other)
    if place is mmproj:
        recipe, model = changed(run, "encoders.image.fit=pad")
        monkeypatch.setattr(export, "load_run", lambda *_: (recipe, model))
    with pytest.raises(MmllmError, match="what was written differs from the run first in its " + re.escape(first)):
        export_run(run, "gguf", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_crash_of_llama_cpp_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dies = tmp_path / "dies"
    dies.write_text("#!/bin/sh\necho 'ggml.c:1: GGML_ASSERT(x) failed' >&2\nkill -ABRT $$\n")
    dies.chmod(dies.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(reading_back.sys, "executable", str(dies))
    with pytest.raises(MmllmError, match=r"does not take the files \(SIGABRT\): ggml\.c:1: GGML_ASSERT\(x\) failed$"):
        run_llama_cpp(Task("", [], "", 1, 8, 1), tmp_path)


@reads_back
def test_files_that_it_cannot_load_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(MmllmError, match=r"llama.cpp does not take the files: it cannot load the LLM: \S"):
        run_llama_cpp(Task(str(tmp_path / "model.gguf"), [], "", 1, 8, 1), tmp_path)


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
    change: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = change.replace("SIGLIP", str(run.parent / "tiny-siglip-0"))
    for word, family in (("GPT2", "gpt2"), ("WINDOWED", "mistral")):
        if word in told:
            told = told.replace(word, str(tiny_llm_folder(run.parent, family)))
    overrides = [told]
    if "other:" in told:
        overrides.append("connectors.image={type: concat, from: [image, other]}")
    recipe, model = changed(run, *overrides)
    monkeypatch.setattr(export, "load_run", lambda *_: (recipe, model))
    with pytest.raises(MmllmError) as found:
        export_run(run, "gguf", tmp_path / "out")
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
def test_llms_that_no_form_holds_are_refused(change: str, said: str, run: Path, tmp_path: Path) -> None:
    other = _made(tmp_path / "run")
    changed_recipe = load_recipe(run.parent / "recipe.yaml", [change])
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
    form: str, words: dict[str, Any], said: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(MmllmError, match=re.escape(said)):
        export_run(run, form, tmp_path / "out", **words)
    assert not list(tmp_path.iterdir())
