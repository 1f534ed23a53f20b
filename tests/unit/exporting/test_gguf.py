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
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges

import mmllm
from mmllm.batches.collate import collate
from mmllm.batches.sample import encode
from mmllm.checkpoints.load import load_run
from mmllm.cli import main
from mmllm.errors import MmllmError
from mmllm.exporting import export, merging
from mmllm.exporting.export import export_run
from mmllm.exporting.gguf import mmproj, reading_back, text_model, towers, vocabulary, whole
from mmllm.exporting.gguf.llama_cpp import Picture, Task
from mmllm.exporting.gguf.reading_back import lacking, run_llama_cpp
from mmllm.llms.causal_lm import CausalLM
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.published.comparison import Stage
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import picture
from mmllm.testing.tiny.llms import CORPUS, tiny_llm, tiny_llm_folder, tiny_model, tiny_tokenizer
from mmllm.testing.tiny.published import CASES, published_folder
from mmllm.types import Message, Sample
from tests.support.gguf_runs import AROUND, CLIP, GEMMA, OPEN, SHUFFLE, byte_level, changed, dressed, new_folder
from tests.support.parts import tiny_vision_folder

reads_back = pytest.mark.skipif(lacking() is not None, reason=f"llama.cpp: {lacking()}")


def llm_alone(model: MultimodalLM, folder: Path, **words: Any) -> list[Stage]:
    return list(whole.write(SimpleNamespace(name="tiny"), model, folder, **words))  # type: ignore[arg-type]


def of(llm: CausalLM) -> MultimodalLM:
    return MultimodalLM(llm, {}, {}, {}).requires_grad_(False).eval()


@reads_back
def test_a_run_assembled_by_hand_answers_in_llama_cpp(
    gguf_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export", str(gguf_run), "--to", "gguf", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for stage in ("ids of text 4", "logits (text)", "tokens (333 x 250)", "logits (120 x 200)", "answer (28 x 28)"):
        assert f"equal: {stage}" in said
    files = ["README.md", "mmllm_export.json", "mmproj.gguf", "model.gguf"]
    assert sorted(one.name for one in out.iterdir()) == files
    stages = json.loads((out / "mmllm_export.json").read_text())["stages"]
    assert max(stage["difference"] for stage in stages if stage["name"].startswith("tokens")) <= 1e-3
    # and by llama.cpp alone, about another picture
    model, image = load_run(gguf_run, "cpu")[1], picture(28, 28).rotate(90)
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
    assert mmllm.load(gguf_run).chat("What is on it?", image=image, max_new_tokens=6).strip() == answer


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
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 64}
STRETCHED = {**YARN, "attention_factor": 1.3}
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
    "Qwen2, yarn": ("qwen2", {"rope_parameters": YARN}),
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


@reads_back
def test_yarn_with_numbers_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale of its cosines is in the file, is read of it again, and is missed where it is not; more is refused."""
    llm = tiny_llm("llama", head_dim=16, rope_parameters=STRETCHED)
    assert all(stage.equal for stage in llm_alone(of(llm), new_folder(tmp_path / "own")))
    again = CausalLM.load(str(tmp_path / "own" / "model.gguf"), "float32").model.config.rope_parameters
    assert {word: again[word] for word in STRETCHED} == {**STRETCHED, "attention_factor": pytest.approx(1.3)}
    monkeypatch.setattr(llm.model.config, "rope_parameters", YARN)
    stages = llm_alone(of(llm), new_folder(tmp_path / "without"))
    assert "logits (text)" in [stage.name for stage in stages if not stage.equal]
    monkeypatch.setattr(llm.model.config, "rope_parameters", {**YARN, "beta_fast": 4.0})
    with pytest.raises(MmllmError, match=r"its yarn has beta_fast: 32, and this LLM's 4\.0"):
        llm_alone(of(llm), tmp_path)


@reads_back
def test_a_window_is_as_good_as_none_within_it(tmp_path: Path) -> None:
    model = tiny_model("mistral", sliding_window=120)
    with pytest.raises(MmllmError, match=r"a window of 120 of its 256 positions; write llm\.context: 120 or less"):
        llm_alone(of(CausalLM(model, tiny_tokenizer(), tolerance=float("inf"))), tmp_path)
    stages = llm_alone(of(CausalLM(model, tiny_tokenizer(), 100, float("inf"))), tmp_path)
    assert [stage for stage in stages if not stage.equal] == []
    assert GGUFReader(tmp_path / "model.gguf").fields["llama.context_length"].contents() == 120


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
    return dressed(made, True, unk_token="<unk>", eos_token="</s>")


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
def test_pictures_have_the_tokens_of_the_run(case: str, gguf_run: Path, tmp_path: Path) -> None:
    kind, overrides, allowed = ASSEMBLIES[case]
    recipe, model = changed(gguf_run, *_with_clip(gguf_run, overrides))
    stages = list(whole.write(recipe, model, tmp_path, allow=allowed))
    assert [stage for stage in stages if not stage.equal] == []
    names = [stage.name for stage in stages]
    pictures = [name for name in names if name.startswith("tokens (")]
    assert len(pictures) == (1 if "pixels" in allowed else 3)
    assert any(name.startswith("answer (") and " x " in name for name in names) == ("text" not in allowed)
    assert GGUFReader(tmp_path / "mmproj.gguf").fields["clip.projector_type"].contents() == kind


def _with_clip(gguf_run: Path, overrides: list[str]) -> list[str]:
    if CLIP in overrides and not (gguf_run.parent / "tiny-clip-0").exists():
        tiny_vision_folder(gguf_run.parent, "clip")
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
def test_a_class_token_in_front_of_an_mlp_is_written_for_builds_that_read_it(gguf_run: Path, tmp_path: Path) -> None:
    recipe, model = changed(gguf_run, *_with_clip(gguf_run, [CLIP]))
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
def test_gemma_1_and_2_have_their_pictures_scaled(gguf_run: Path, tmp_path: Path) -> None:
    folder = tiny_llm_folder(tmp_path, "gemma2")
    recipe, model = changed(gguf_run, f"llm.path={folder}")
    stages = list(whole.write(recipe, model, new_folder(tmp_path / "out")))
    assert [stage for stage in stages if not stage.equal] == []


@reads_back
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_matrices_are_rounded_once_they_are_compared(dtype: str, gguf_run: Path, tmp_path: Path) -> None:
    stages = export_run(gguf_run, "gguf", tmp_path / "out", dtype=dtype)
    last = stages[-1]
    assert last.name == f"logits (text), rounded to {dtype}" and 1e-6 < last.difference <= last.limit
    kinds = {name: GGUFReader(tmp_path / "out" / name).tensors for name in ("model.gguf", "mmproj.gguf")}
    rounded = GGMLQuantizationType.F16 if dtype == "float16" else GGMLQuantizationType.BF16
    for tensors in kinds.values():
        for one in tensors:
            whole_tensor = len(one.shape) == 1 or one.name in (towers.PATCHES, towers.POSITIONS)
            assert one.tensor_type == (GGMLQuantizationType.F32 if whole_tensor else rounded), one.name


def test_without_llama_cpp_it_says_what_is_unverified(
    gguf_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(whole, "lacking", lambda: 'it is not installed: pip install "mmllm[gguf]"')
    monkeypatch.setattr(reading_back, "run_llama_cpp", lambda *_: pytest.fail("llama.cpp was asked"))
    assert main(["export", str(gguf_run), "--to", "gguf", "--out", str(tmp_path / "out"), "--dtype", "float16"]) == 0
    said = capsys.readouterr().out
    assert 'it is not installed: pip install "mmllm[gguf]"' in said and "unverified" in said
    assert "equal: logits (text), by transformers" in said and "equal: ids" not in said and "tokens (" not in said
    assert (tmp_path / "out" / "model.gguf").exists()


@reads_back
@pytest.mark.parametrize(
    ("place", "name", "other", "first"),
    [
        (merging, "updates", lambda connector: iter(()), "logits (text), LoRA in the weights"),
        (text_model, "_paired", lambda tensor, heads: tensor, "logits (text)"),
        (vocabulary, "_rule", lambda *_: "qwen2", "ids of text"),
        (towers, "_activation", lambda name: "quick_gelu", "tokens (28 x 28)"),
        (mmproj, "_other_pixels", lambda *_: None, "pixels (333 x 250)"),
    ],
)
def test_nothing_is_written_that_differs(
    place: Any, name: str, other: Any, first: str, gguf_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, other)
    if place is mmproj:
        recipe, model = changed(gguf_run, "encoders.image.fit=pad")
        monkeypatch.setattr(export, "load_run", lambda *_: (recipe, model))
    with pytest.raises(MmllmError, match="what was written differs from the run first in its " + re.escape(first)):
        export_run(gguf_run, "gguf", tmp_path / "out")
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
