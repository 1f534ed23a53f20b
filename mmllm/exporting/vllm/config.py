"""The ``config.json`` of a folder for vLLM: the LLM's configuration, and what stands for a picture in a prompt."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

ARCHITECTURE = "MmllmForConditionalGeneration"
"""Name by which vLLM finds the class in ``mmllm.interop.vllm.model``."""


class MmllmConfig(PretrainedConfig):
    """Configuration of pictures in front of an LLM; ``text_config`` is the LLM's own."""

    model_type = "mmllm"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}
    has_no_defaults_at_init = True

    def __init__(
        self,
        text_config: dict[str, Any] | PretrainedConfig,
        image_token_id: int,
        image_token: str,
        tokens_per_image: int,
        **words: Any,
    ) -> None:
        """Set up.

        Args:
            text_config: of the LLM; its ``architectures`` name the class of it.
            image_token_id: id that stands in a prompt for each token of a picture.
            image_token: text of that id.
            tokens_per_image: tokens that a picture takes, whatever it shows.
            words: transformers' own, as every configuration has them.
        """
        if isinstance(text_config, dict):
            text_config = CONFIG_MAPPING[text_config["model_type"]](**text_config)
        self.text_config = text_config
        self.image_token_id = image_token_id
        self.image_token = image_token
        self.tokens_per_image = tokens_per_image
        words.setdefault("tie_word_embeddings", text_config.tie_word_embeddings)
        super().__init__(**words)
