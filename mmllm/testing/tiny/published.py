"""Tiny random published models with processors and chat templates as their own classes save them, odd ones too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as t

from mmllm.testing.tiny.llms import tiny_tokenizer

LLM: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 384, "max_position_embeddings": 512, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VIT: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 7,
}  # fmt: skip

PARTS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ 'MARK' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A template that takes messages in parts, as those of published models do; MARK stands for a picture."""


@dataclass(frozen=True)
class Published:
    """How one tiny model is made."""

    config: Callable[[int, dict[str, Any]], Any]
    """(id of the picture's token, changes of the configuration) -> configuration."""
    processor: Callable[[Any, str, Any], Any]
    """(tokenizer, template, configuration) -> processor."""
    mark: str = "<image>"
    """Token of a picture."""
    template: str = PARTS
    tokens: tuple[str, ...] = field(default=())
    """Further control tokens."""
    named: dict[str, str] = field(default_factory=dict)
    """Control tokens by the names under which the processor asks its tokenizer for them."""


def _llava(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {"vision_config": t.CLIPVisionConfig(**VIT), "text_config": t.LlamaConfig(**LLM)}
    return t.LlavaConfig(**{**words, "image_token_index": token, **changes})


def _llava_processor(tokenizer: Any, template: str, config: Any) -> Any:
    pictures = t.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28)
    strategy = config.vision_feature_select_strategy
    # tokens that the processor counts besides patches: the class token, where the tower has one
    extra = 1 if strategy == "default" else 0
    words = {"patch_size": 7, "vision_feature_select_strategy": strategy, "num_additional_image_tokens": extra}
    return t.LlavaProcessor(pictures, tokenizer, chat_template=template, image_token="<image>", **words)


def _idefics(kind: str) -> Callable[[int, dict[str, Any]], Any]:
    def made(token: int, changes: dict[str, Any]) -> Any:
        words: dict[str, Any] = {"vision_config": dict(VIT), "text_config": t.LlamaConfig(**LLM), "scale_factor": 2}
        return getattr(t, f"{kind}Config")(**{**words, "image_token_id": token, **changes})

    return made


def _idefics_processor(tokenizer: Any, template: str, config: Any) -> Any:
    pictures = t.Idefics3ImageProcessor(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    return t.Idefics3Processor(pictures, tokenizer, image_seq_len=16 // config.scale_factor**2, chat_template=template)


def _deepseek(token: int, changes: dict[str, Any]) -> Any:
    words: dict[str, Any] = {"vision_config": t.SiglipVisionConfig(**VIT), "text_config": t.LlamaConfig(**LLM)}
    return t.DeepseekVLConfig(**{**words, "image_token_id": token, **changes})


def _deepseek_processor(tokenizer: Any, template: str, config: Any) -> Any:
    pictures = t.DeepseekVLImageProcessor(size={"height": 28, "width": 28}, min_size=4)
    return t.DeepseekVLProcessor(pictures, tokenizer, chat_template=template, num_image_tokens=16)


def _internvl(token: int, changes: dict[str, Any]) -> Any:
    tower = t.InternVLVisionConfig(**{**VIT, "image_size": (28, 28), "patch_size": (7, 7)})
    words: dict[str, Any] = {"vision_config": tower, "text_config": t.Qwen2Config(**LLM)}
    return t.InternVLConfig(**{**words, "image_token_id": token, **changes})


def _internvl_processor(tokenizer: Any, template: str, config: Any) -> Any:
    pictures = t.GotOcr2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=True)
    return t.InternVLProcessor(
        pictures, tokenizer, t.InternVLVideoProcessor(size={"height": 28, "width": 28}), image_seq_length=4,
        chat_template=template,
    )  # fmt: skip


PLACES = tuple(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7))
IDEFICS = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *PLACES)
PUBLISHED: dict[str, Published] = {
    "Llava": Published(_llava, _llava_processor),
    "Idefics3": Published(_idefics("Idefics3"), _idefics_processor, tokens=IDEFICS),
    "DeepseekVL": Published(
        _deepseek,
        _deepseek_processor,
        "<image_placeholder>",
        named={"image_token": "<image_placeholder>"},
    ),
    # with Idefics3's processor, as SmolVLM's own cannot be made without the package num2words
    "SmolVLM": Published(_idefics("SmolVLM"), _idefics_processor, tokens=IDEFICS),
    "InternVL": Published(
        _internvl,
        _internvl_processor,
        "<IMG_CONTEXT>",
        named={
            "context_image_token": "<IMG_CONTEXT>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "video_token": "<video>",
        },
    ),
}
"""Beginning of the class's name -> how a tiny one is made."""


def published_folder(name: str, folder: Path, template: str | None = None, bos: bool = False, **changes: Any) -> Path:
    """Save a tiny random model with everything that a folder of the hub has.

    ``template``: another chat template; ``bos``: the tokenizer puts a first token in front of every text; ``changes``
    of the configuration.
    """
    made = PUBLISHED[name]
    tokenizer = tiny_tokenizer()
    if made.named:
        words = {"pad_token": "<|pad|>", "eos_token": "<|im_end|>", "extra_special_tokens": made.named}
        tokenizer = t.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **words)
    else:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", made.mark, *made.tokens]})
    if bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
        single = TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)])
        tokenizer.backend_tokenizer.post_processor = single
    torch.manual_seed(0)
    config = made.config(tokenizer.convert_tokens_to_ids(made.mark), changes)
    text = config.get_text_config()
    text.vocab_size = max(text.vocab_size, len(tokenizer))
    model = getattr(t, f"{name}ForConditionalGeneration")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    made.processor(tokenizer, (template or made.template).replace("MARK", made.mark), config).save_pretrained(folder)
    return folder


SIGLIP: dict[str, Any] = {"vision_config": t.SiglipVisionConfig(**VIT), "vision_feature_select_strategy": "full"}
NORMED: dict[str, Any] = {**VIT, "image_size": (28, 28), "patch_size": (7, 7)}
CASES: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "LLaVA 1.5": ("Llava", True, {}),
    "LLaVA, two layers": ("Llava", True, {"vision_feature_layer": [-2, -1]}),
    "LLaVA, no biases, tanh GELU": (
        "Llava", True, {"multimodal_projector_bias": False, "projector_hidden_act": "gelu_pytorch_tanh"}
    ),
    "LLaVA, all patches of SigLIP": ("Llava", True, SIGLIP),
    "LLaVA, a first token in front": ("Llava", True, {"bos": True}),
    "LLaVA, Qwen2, tied": (
        "Llava", True, {"text_config": t.Qwen2Config(**LLM, tie_word_embeddings=True), "tie_word_embeddings": True}
    ),
    "LLaVA, Qwen2, untied": ("Llava", True, {"text_config": t.Qwen2Config(**LLM)}),
    "Idefics3": ("Idefics3", True, {}),
    "Idefics3, factor 4": ("Idefics3", True, {"scale_factor": 4}),
    "Idefics3, pictures whole": ("Idefics3", False, {}),
    "SmolVLM": ("SmolVLM", True, {}),
    "InternVL": ("InternVL", True, {}),
    "InternVL, the tower's norm": (
        "InternVL",
        True,
        {"vision_config": t.InternVLVisionConfig(**NORMED, use_mean_pooling=False, use_qk_norm=True)},
    ),
    "InternVL, an inner layer, relu": (
        "InternVL", True, {"vision_feature_layer": -2, "projector_hidden_act": "relu"}
    ),
    "DeepSeek-VL": ("DeepseekVL", True, {}),
    "DeepSeek-VL, untied": ("DeepseekVL", True, {"tie_word_embeddings": False}),
    "InternVL, pictures whole": ("InternVL", False, {}),
}  # fmt: skip
"""Name -> model, whether pictures are cut, and what differs from its plain configuration."""
