"""How a tiny published model is made and saved with everything that a folder of the hub has."""

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
    "{% for part in message['content'] %}{% if part['type'] != 'text' %}{{ 'MARK' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A template that takes messages in parts, as those of published models do; MARK stands for an item."""


CLIPS = PARTS.replace(
    "{% if part['type'] != 'text' %}",
    "{% if part['type'] == 'video' %}{{ '<video>' }}{% elif part['type'] != 'text' %}",
)
"""The same with a token for clips."""


@dataclass(frozen=True)
class Published:
    """How one tiny model is made."""

    config: Callable[[int, dict[str, Any]], Any]
    """(id of an item's token, changes of the configuration) -> configuration."""
    processor: Callable[[Any, str, Any], Any]
    """(tokenizer, template, configuration) -> processor."""
    mark: str = "<image>"
    """Token of an item."""
    template: str = PARTS
    tokens: tuple[str, ...] = field(default=())
    """Further control tokens."""
    modality: str = "image"
    """What it takes beside text."""
    package: str | None = None
    """Package that its processor needs, where that is no dependency of ours."""
    kind: str | None = None
    """Beginning of the class's name, where families share one."""
    named: dict[str, str] = field(default_factory=dict)
    """Control tokens by the names under which the processor asks its tokenizer for them."""
    plain: tuple[str, ...] = ()
    """Further tokens that are text."""
    bos: bool = False
    """Whether its tokenizer always has a first token."""
    tokenizer: Callable[[], Any] | None = None
    """Makes a tokenizer of another kind, with all of its tokens."""
    ending: str = "ForConditionalGeneration"
    """End of the class's name."""
    saved: Callable[[Any, Path], None] | None = None
    """Saves the model with what else its folder has; None: the model alone."""
    extra_rows: int = 0
    """Rows that the embedding table has and the head has not."""


@dataclass(frozen=True)
class Case:
    """A configuration that is imported."""

    name: str
    """Beginning of the class's name."""
    changes: dict[str, Any] = field(default_factory=dict)
    """What differs from its plain configuration, and words of ``published_folder``."""
    tiles: bool = True
    """Whether pictures are cut where the model cuts them."""


def save(
    made: Published, name: str, folder: Path, template: str | None = None, bos: bool = False, **changes: Any
) -> Path:
    """Save a tiny random model.

    ``name``: beginning of its class's; ``template``: another chat template; ``bos``: the tokenizer puts a first token
    in front of every text; ``changes`` of the configuration.
    """
    tokenizer = tokenizer_of(made, bos)
    torch.manual_seed(0)
    config = made.config(tokenizer.convert_tokens_to_ids(made.mark), changes)
    text = config.get_text_config()
    text.vocab_size = max(text.vocab_size, len(tokenizer) - made.extra_rows)
    model = getattr(t, f"{made.kind or name}{made.ending}")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    if made.saved is None:
        model.save_pretrained(folder)
    else:
        made.saved(model, folder)
    processor_of(made, tokenizer, config, template).save_pretrained(folder)
    return folder


def tokenizer_of(made: Published, bos: bool = False) -> Any:
    """A tiny tokenizer with the model's control tokens; ``bos``: it puts a first token in front of every text."""
    if made.tokenizer:
        tokenizer = made.tokenizer()
    elif made.named:
        words = {"pad_token": "<|pad|>", "eos_token": "<|im_end|>", "extra_special_tokens": made.named}
        tokenizer = t.PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer, **words)
    else:
        tokenizer = tiny_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", made.mark, *made.tokens]})
    tokenizer.add_tokens(list(made.plain))
    if bos or made.bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
        single = TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)])
        tokenizer.backend_tokenizer.post_processor = single
    return tokenizer


def processor_of(made: Published, tokenizer: Any, config: Any, template: str | None = None) -> Any:
    """Its processor, with its own chat template or another."""
    return made.processor(tokenizer, (template or made.template).replace("MARK", made.mark), config)
