"""``llm: {path: VLM}``: logits of text are those of the whole published model, whatever its files call the tensors."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, MllamaForCausalLM, MllamaTextConfig, PreTrainedModel

from mmllm.errors import MmllmError
from mmllm.llms.causal_lm import CausalLM
from mmllm.messages.tokenize import Prompter
from mmllm.testing.tiny.llms import tiny_tokenizer
from mmllm.types import Message, Sample
from tests.support.vlms import CONFIGS, LLM, foreign_folder, vlm_folder

IDS = torch.arange(12)[None] * 7 + 3


@torch.no_grad()
def own_logits(model: PreTrainedModel) -> torch.Tensor:
    """float[12, V] of the whole model's own text-only pass, token by token, so that PaliGemma sees no later one."""
    rows, cache = [], None
    for position in range(IDS.shape[1]):
        output = model(input_ids=IDS[:, position : position + 1], past_key_values=cache, use_cache=True)
        rows, cache = [*rows, output.logits[0, -1]], output.past_key_values
    return torch.stack(rows)


@pytest.mark.parametrize("names", ["old", "new"])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_logits_of_text_are_the_whole_models(name, names, tmp_path) -> None:
    folder, model = vlm_folder(name, tmp_path / "vlm", names)
    expected = own_logits(model)
    llm = CausalLM.load(str(folder), "float32")
    assert not [key for key, _ in llm.model.named_parameters() if "tower" in key or "projector" in key]
    found = llm.model(input_ids=IDS).logits[0]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_shards(tmp_path) -> None:
    folder, model = vlm_folder("Llava", tmp_path / "vlm", max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    found = CausalLM.load(str(folder), "float32").model(input_ids=IDS).logits[0]
    torch.testing.assert_close(found, own_logits(model), atol=2e-5, rtol=1e-4)


def test_missing_weights_of_the_text_model_are_an_error(tmp_path) -> None:
    folder, _ = vlm_folder("Llava", tmp_path / "vlm")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("language_model.model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MmllmError, match=r"lacks 1 weights of its LlamaForCausalLM, the first is model\.layers\.1"):
        CausalLM.load(str(folder))


PARTS_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ':\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
)
"""As published VLMs have it: messages are lists of parts."""


def test_the_chat_template_beside_the_tokenizer_is_read(tmp_path) -> None:
    """Older folders keep it in chat_template.json, and it takes messages as lists of parts."""
    folder, _ = vlm_folder("Llava", tmp_path / "vlm")
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": PARTS_TEMPLATE}))
    assert AutoTokenizer.from_pretrained(folder).chat_template is None
    tokenizer = CausalLM.load(str(folder), "float32").tokenizer
    sample = Sample("row", (Message("user", "how many?"), Message("assistant", "two")), {})
    prompt = Prompter(tokenizer, []).tokenize_for_training(sample)
    assert tokenizer.decode(prompt.ids) == "user:\nhow many?<|im_end|>assistant:\ntwo<|im_end|>"
    assert tokenizer.decode([label for label in prompt.labels if label >= 0]) == "two<|im_end|>"
    (folder / "chat_template.json").write_text("{")
    with pytest.raises(MmllmError, match=r"chat_template\.json: no chat template can be read"):
        CausalLM.load(str(folder))


def test_a_multimodal_model_of_an_unknown_family_is_named(tmp_path) -> None:
    foreign_folder("VipLlavaForConditionalGeneration", tmp_path)
    with pytest.raises(MmllmError, match=r"is a VipLlavaForCond\w*; the text models .* LLaVA 1\.5, LLaVA"):
        CausalLM.load(str(tmp_path))


def test_a_text_model_without_a_list_of_blocks_is_refused() -> None:
    model = MllamaForCausalLM(MllamaTextConfig(**{**LLM, "cross_attention_layers": [1]}))
    with pytest.raises(MmllmError, match=r"MllamaForCausalLM cannot be used: its decoder, a .* has no list of 2 bloc"):
        CausalLM(model, tiny_tokenizer())


def test_a_tokenizer_that_has_the_placeholder_as_a_token(tmp_path) -> None:
    """LLaVA's ``<image>`` is a token of its own; here it is only a place."""
    folder, _ = vlm_folder("Llava", tmp_path / "vlm")
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(folder)
    prompter = Prompter(CausalLM.load(str(folder), "float32").tokenizer, ["image"])
    sample = Sample("row", (Message("user", "<image>\nred?"), Message("assistant", "no")), {"image": (b"",)})
    prompt = prompter.tokenize_for_training(sample)
    ((place, key),) = prompt.places
    assert key == "image" and prompt.labels[place] == -100
    plain = Prompter(tiny_tokenizer(), ["image"]).tokenize_for_training(sample)
    assert [i for n, i in enumerate(prompt.ids) if n != place] == [i for n, i in enumerate(plain.ids) if n != place]
