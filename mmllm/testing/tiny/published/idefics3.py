"""Idefics3 and SmolVLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as t

from mmllm.testing.tiny.published.folder import LLM, VIT, Case, Published


def _idefics(kind: str) -> Callable[[int, dict[str, Any]], Any]:
    def made(token: int, changes: dict[str, Any]) -> Any:
        words: dict[str, Any] = {"vision_config": dict(VIT), "text_config": t.LlamaConfig(**LLM), "scale_factor": 2}
        return getattr(t, f"{kind}Config")(**{**words, "image_token_id": token, **changes})

    return made


def _idefics_processor(tokenizer: Any, template: str, config: Any) -> Any:
    pictures = t.Idefics3ImageProcessor(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    return t.Idefics3Processor(pictures, tokenizer, image_seq_len=16 // config.scale_factor**2, chat_template=template)


def _smolvlm_processor(tokenizer: Any, template: str, config: Any) -> Any:
    pictures = t.SmolVLMImageProcessor(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    sampling = {"max_frames": 6, "fps": 1, "video_size": {"longest_edge": 40}}
    clips = t.SmolVLMVideoProcessor(max_image_size={"longest_edge": 28}, video_sampling=sampling)
    tokens = 16 // config.scale_factor**2
    return t.SmolVLMProcessor(pictures, tokenizer, clips, image_seq_len=tokens, chat_template=template)


PLACES = tuple(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7))
IDEFICS = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *PLACES)
PUBLISHED = {
    "Idefics3": Published(_idefics("Idefics3"), _idefics_processor, tokens=IDEFICS),
    # the first ones have Idefics3's processor
    "SmolVLM": Published(_idefics("SmolVLM"), _idefics_processor, tokens=IDEFICS),
    "SmolVLM2": Published(_idefics("SmolVLM"), _smolvlm_processor, tokens=IDEFICS, kind="SmolVLM"),
}
CASES = {
    "Idefics3": Case("Idefics3"),
    "Idefics3, factor 4": Case("Idefics3", {"scale_factor": 4}),
    "Idefics3, pictures whole": Case("Idefics3", tiles=False),
    "SmolVLM": Case("SmolVLM"),
    "SmolVLM2": Case("SmolVLM2"),
}
