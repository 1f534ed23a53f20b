"""Folders that are no whole causal LM: one sentence each, with the command that helps, never a traceback."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t

from mmllm.cli import main
from mmllm.errors import MmllmError
from mmllm.llms.causal_lm import CausalLM
from mmllm.llms.folders import recurrent_kinds
from mmllm.testing.tiny.llms import tiny_llm_folder, tiny_model, tiny_tokenizer

TEXT: dict[str, Any] = {
    "vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 128,
}  # fmt: skip
BERT: dict[str, Any] = {key: value for key, value in TEXT.items() if key != "num_key_value_heads"}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
MODELS = {
    "mamba": (lambda: t.MambaForCausalLM(t.MambaConfig(
        vocab_size=384, hidden_size=32, num_hidden_layers=1, state_size=4)), "is a mamba with state-space blocks"),
    "mamba2": (lambda: t.Mamba2ForCausalLM(t.Mamba2Config(
        vocab_size=384, hidden_size=32, num_hidden_layers=1, state_size=4, num_heads=4, head_dim=16, n_groups=1)),
        "is a mamba2 with state-space blocks"),
    "lfm2_moe": (lambda: t.Lfm2MoeForCausalLM(t.Lfm2MoeConfig(
        **TEXT, layer_types=["conv", "full_attention"], num_experts=2, num_experts_per_tok=1)),
        "is a lfm2_moe with conv blocks"),
    "bamba": (lambda: t.BambaForCausalLM(t.BambaConfig(**TEXT, **MAMBA, attn_layer_indices=[1])), "is a bamba with"),
    "falcon_h1": (lambda: t.FalconH1ForCausalLM(t.FalconH1Config(
        **TEXT, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1)),
        "is a falcon_h1 with"),
    "recurrent_gemma": (lambda: t.RecurrentGemmaForCausalLM(t.RecurrentGemmaConfig(
        vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        lru_width=32)), "is a recurrent_gemma with recurrent blocks"),
    "qwen3_next": (lambda: t.Qwen3NextForCausalLM(t.Qwen3NextConfig(
        **TEXT, **LINEAR, head_dim=16, layer_types=["linear_attention", "full_attention"], num_experts=2,
        num_experts_per_tok=1, moe_intermediate_size=16, shared_expert_intermediate_size=16)),
        "is a qwen3_next with linear_attention blocks"),
    "t5": (lambda: t.T5ForConditionalGeneration(t.T5Config(
        vocab_size=384, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=2)), "is an encoder-decoder"),
    "bert": (lambda: t.BertForMaskedLM(t.BertConfig(**BERT)), r"is an encoder \(BertForMaskedLM\)"),
    "bert_without_head": (lambda: t.BertModel(t.BertConfig(**BERT)), r"is an encoder \(BertModel\)"),
    "vit": (lambda: t.ViTModel(t.ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=28,
        patch_size=14)),
        "is a ViTModel, which is no causal LM"),
    "qwen2_without_head": (lambda: t.Qwen2Model(t.Qwen2Config(**TEXT)), r"lacks 1 weights .* lm_head\.weight"),
}  # fmt: skip
"""Name -> (model, sentence)."""


@pytest.mark.parametrize("name", MODELS)
def test_models_of_another_kind(name, tmp_path) -> None:
    make, sentence = MODELS[name]
    make().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(MmllmError, match=sentence) as raised:
        CausalLM.load(str(tmp_path))
    assert len(str(raised.value)) < 420 and "\n" not in str(raised.value)


ATTENTION = """Llama Qwen2 Qwen3 Qwen3Moe Mistral Gemma2 Gemma3Text Phi3 Olmo2 SmolLM3 GPT2 GPTNeoX OPT Cohere2 Granite
Mixtral DeepseekV3 GptOss StableLm Falcon""".split()
STATE = """Mamba Mamba2 FalconMamba Bamba FalconH1 Jamba Zamba2 Qwen3Next Rwkv RecurrentGemma NemotronH GraniteMoeHybrid
MiniMax""".split()


def test_every_family_of_transformers_that_is_all_attention_passes_the_check() -> None:
    """The words by which recurrent blocks are known do not stand in configs of attention."""
    for kind in ATTENTION:
        assert recurrent_kinds(getattr(t, f"{kind}Config")()) == [], kind
    for kind in STATE:
        assert recurrent_kinds(getattr(t, f"{kind}Config")()) != [], kind


def _bin_only(folder: Path) -> None:
    torch.save(tiny_model().state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _adapter(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/base"})
    )


def _truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def _shard_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    tiny_model().save_pretrained(folder, max_shard_size="40KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def _no_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


DAMAGE = {
    _bin_only: r"holds its weights as pytorch_model\.bin, a pickle, .* python -c 'from transformers import",
    lambda folder: (folder / "adapter_config.json").write_text("{}"): "its weights are changes to its base model",
    _adapter: r"is a PEFT adapter, not a model: its weights are changes to org/base\..*merge_and_unload",
    _truncated: r"model\.safetensors is shortened: [\d,]+ of [\d,]+ bytes; download it again: hf download MODEL",
    _pointer: "holds a pointer of Git LFS, not the weights; `git lfs pull` in its folder, or download it again: hf",
    _shard_missing: r"lacks 1 of its \d+ weight files, the first is model-00002-of-\d+\.safetensors; fetch it again",
    _no_tokenizer: r"has no tokenizer \(none of tokenizer\.json, .* hf download MODEL --include 'tokenizer\*'",
    lambda folder: (folder / "config.json").unlink(): r"has no config\.json; it holds chat_template\.jinja, ",
    lambda folder: (folder / "config.json").write_text("{"): r"is not a valid JSON file",
    lambda folder: (folder / "tokenizer.json").write_text("{"): r"the tokenizer of .* cannot be read",
    lambda folder: (folder / "model.safetensors").unlink(): r"has a config\.json but no weights",
    lambda folder: (folder / "model.safetensors").write_bytes(b""): r"is no safetensors file \(0 bytes\)",
    lambda folder: (folder / "model.safetensors").write_bytes(b"\x04" + bytes(7) + b"null"): "has a damaged header",
}
"""What is done to a good folder -> sentence."""


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folders(damage, tmp_path) -> None:
    folder = tiny_llm_folder(tmp_path)
    damage(folder)
    with pytest.raises(MmllmError, match=DAMAGE[damage]):
        CausalLM.load(str(folder))


def run_as_typed(command: str) -> None:
    """What `python -c CODE` does, as a shell takes it apart; here, since a new process imports for seconds."""
    program, option, code = shlex.split(command)
    assert (program, option) == ("python", "-c")
    exec(code, {"__name__": "__main__"})


def test_the_command_for_pickled_weights_works(tmp_path, monkeypatch) -> None:
    """As it stands in the sentence, and what it makes is the model."""
    monkeypatch.chdir(tmp_path)
    folder = tiny_llm_folder(tmp_path)
    _bin_only(folder)
    with pytest.raises(MmllmError) as raised:
        CausalLM.load(str(folder))
    run_as_typed(str(raised.value).partition("CONVERTED: ")[2])
    ids = torch.arange(9)[None]
    found = CausalLM.load("CONVERTED", "float32").model(input_ids=ids).logits
    assert torch.equal(found, tiny_model()(input_ids=ids).logits)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft 0.21 asks transformers for it
def test_the_command_for_an_adapter_works(tmp_path, monkeypatch) -> None:
    from peft import LoraConfig, get_peft_model

    monkeypatch.chdir(tmp_path)
    base = tiny_llm_folder(tmp_path)
    adapted = get_peft_model(t.AutoModelForCausalLM.from_pretrained(base), LoraConfig(init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(MmllmError) as raised:
        CausalLM.load(str(tmp_path / "adapter"))
    run_as_typed(str(raised.value).partition("MERGED: ")[2])
    for file in base.glob("*token*"):
        shutil.copy(file, "MERGED")
    ids = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            CausalLM.load("MERGED", "float32").model(input_ids=ids).logits, adapted.eval()(input_ids=ids).logits
        )


def test_the_command_line_ends_with_two(tmp_path, capsys, monkeypatch) -> None:
    """The sentence, and no traceback."""
    monkeypatch.chdir(tmp_path)
    folder = tiny_llm_folder(tmp_path)
    _truncated(folder)
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"llm: {{path: {folder}, dtype: float32, context: 64}}\n"
        "connectors:\n  inner: {type: lora, rank: 2}\n"
        "data:\n  rows: {type: chat_jsonl, path: rows.jsonl}\n"
        "stages:\n  a: {train: {connectors.inner: 1.0e-3}, data: {rows: 1.0}, steps: 1, batch: 1}\n"
    )
    assert main(["train", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert "is shortened" in error and "Traceback" not in error
