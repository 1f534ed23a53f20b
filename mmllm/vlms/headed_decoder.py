"""A decoder that transformers has only inside a published multimodal model, with a plain LM head: a causal LM of it.

``text_model.py`` loads one where transformers has no causal LM of the text config, as for Qwen-VL, whose decoder takes
positions on three axes.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from mmllm.types import SEQUENTIAL, PositionScheme


class HeadedDecoder(PreTrainedModel, GenerationMixin):
    """The decoder of a text config and a linear head without bias, named as those of transformers' causal LMs are."""

    base_model_prefix = "model"
    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}
    # of the decoder's own class; asked of this one when it is made (read in transformers 5.23)
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: PretrainedConfig) -> None:
        """``config`` of the text model; its ``tie_word_embeddings`` says whether the head is the embeddings."""
        super().__init__(config)
        # not AutoModel: its decoder would have a config of its own, and another attention than this model's
        self.model = MODEL_MAPPING[type(config)](config)
        words: Any = config
        self.lm_head = nn.Linear(words.hidden_size, words.vocab_size, bias=False)
        # where the rotary embedding deals its frequencies out to three axes (Qwen-VL's M-RoPE)
        axes = hasattr(self.model.rotary_emb, "mrope_section")
        self.positions = PositionScheme("mrope") if axes else SEQUENTIAL
        """How it counts positions."""
        self.post_init()

    def forward(self, use_cache: bool | None = None, **inputs: Any) -> CausalLMOutputWithPast:
        """Logits float[N, T, V]; ``inputs`` are the decoder's."""
        found = self.model(use_cache=use_cache, **inputs)
        logits: Any = self.lm_head(found.last_hidden_state)
        return CausalLMOutputWithPast(logits=logits, past_key_values=getattr(found, "past_key_values", None))
