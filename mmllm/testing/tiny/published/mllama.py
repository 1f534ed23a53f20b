"""Llama 3.2 Vision (Mllama): cross-attention blocks of the LLM read four tiles of one tower."""

from __future__ import annotations

from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import LLM, PARTS, Case, Published

BEGIN = "<|begin_of_text|>"
VISION: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_global_layers": 2, "attention_heads": 2,
    "image_size": 28, "patch_size": 7, "intermediate_layers_indices": [0, 2], "vision_output_dim": 48,
}  # fmt: skip


def _mllama(token: int, changes: dict[str, Any]) -> Any:
    # the picture's token is the first that the embedding table has and the head has not
    text = {**LLM, "vocab_size": token, "num_hidden_layers": 3, "cross_attention_layers": [1]}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
    text |= changes.get("text", {})
    vision = {**VISION, **changes.get("vision", {})}
    return t.MllamaConfig(
        vision_config=t.MllamaVisionConfig(**vision),
        text_config=t.MllamaTextConfig(**text),
        image_token_index=token,
    )


def _mllama_processor(tokenizer: Any, template: str, config: Any) -> Any:
    tokenizer.bos_token = BEGIN
    vision = config.vision_config
    size = {"height": vision.image_size, "width": vision.image_size}
    pictures = t.MllamaImageProcessor(size=size, max_image_tiles=vision.max_num_tiles)
    return t.MllamaProcessor(pictures, tokenizer, chat_template=template)


PUBLISHED = {"Mllama": Published(_mllama, _mllama_processor, "<|image|>", tokens=(BEGIN,), extra_rows=8)}
BARE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>' }}"
    "{% generation %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ '<|im_end|>' }}"
    "{% endgeneration %}{{ '\n' }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ 'MARK' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
)
"""Nothing in front of a conversation's first picture: the first token goes behind it."""
DATED = (
    "{{- bos_token }}{%- set seen = namespace(pictures=false) %}{%- for message in messages %}"
    "{%- for part in message['content'] %}{%- if part['type'] == 'image' %}{%- set seen.pictures = true %}{%- endif %}"
    "{%- endfor %}{%- endfor %}{%- if strftime_now is defined %}{%- set day = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set day = 'no day' %}{%- endif %}"
    "{%- if not seen.pictures %}{{- '<|im_start|>system\n' + day + '<|im_end|>\n' }}{%- endif %}"
) + PARTS
"""Like its own: it writes the first token, and a text of the system with the day where there is no picture."""
ODD: dict[str, Any] = {
    "num_key_value_heads": 1, "hidden_act": "gelu", "rms_norm_eps": 1e-3, "tie_word_embeddings": True,
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}  # fmt: skip
TWO: dict[str, Any] = {"max_num_tiles": 2, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]]}
CASES = {
    "Llama 3.2 Vision": Case("Mllama"),
    "Llama 3.2 Vision, cross-attention first, twice in a row and last": Case(
        "Mllama", {"text": {"num_hidden_layers": 6, "cross_attention_layers": [0, 2, 3, 5]}}
    ),
    "Llama 3.2 Vision, one tile and four": Case("Mllama", {"vision": {"image_size": 224, "patch_size": 56}}),
    "Llama 3.2 Vision, two tiles at most": Case("Mllama", {"vision": TWO}),
    "Llama 3.2 Vision, other heads, activation, norms and rotation": Case("Mllama", {"text": ODD}),
    "Llama 3.2 Vision, a picture in front of the first token": Case("Mllama", {"template": BARE}),
    "Llama 3.2 Vision, its template writes the first token and the day": Case("Mllama", {"template": DATED}),
}
