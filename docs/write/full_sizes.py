"""What is publicly known of one checkpoint of each published family: its name on the hub, and its sizes.

Sizes are those that transformers' own configuration classes start with, or stand here as their papers and model cards
give them; nothing was read from the hub. ``published_recipes.py`` makes recipes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import transformers as t


@dataclass(frozen=True)
class FullSize:
    """One checkpoint."""

    title: str
    """Name and paper."""
    hub: str
    """Its name on the hub."""
    kind: str
    """The tiny model of ``mmllm.testing.tiny.published`` whose tokens and processor it has."""
    config: Callable[[int], Any]
    """Id of an item's token -> its configuration."""
    reader: Callable[[], Any] | None = None
    """Its image processor or feature extractor; None: its settings do not matter."""
    unknown: tuple[str, ...] = ()
    """Words of its connector that only its own configuration says."""
    more: tuple[str, ...] = ()
    """Further connectors of it, which lie in files of their own."""
    one_question: bool = False
    """Whether it knows no conversations."""


_SO400M: dict[str, Any] = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
}  # fmt: skip
_CLIP_L: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
_GROUPED: dict[str, Any] = {"num_attention_heads": 32, "num_key_value_heads": 8}
_LLAMA3: dict[str, Any] = {
    **_GROUPED, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072
}  # fmt: skip
_QWEN_7B: dict[str, Any] = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064,
}  # fmt: skip
_QWEN_SMALL: dict[str, Any] = {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}


def _clip() -> Any:
    return t.CLIPVisionConfig(**_CLIP_L)


def _so400m(side: int, patch: int = 14, **words: Any) -> Any:
    return t.SiglipVisionConfig(**{**_SO400M, "image_size": side, "patch_size": patch, **words})


def _next_pictures() -> Any:
    return t.LlavaNextImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _nemo() -> Any:
    return t.MistralConfig(**_GROUPED, hidden_size=5120, num_hidden_layers=40, head_dim=128, vocab_size=131072)


FULL_SIZES: Mapping[str, FullSize] = {
    "llava_1_5": FullSize(
        "LLaVA 1.5 (2310.03744)", "llava-hf/llava-1.5-7b-hf", "Llava",
        lambda token: t.LlavaConfig(
            vision_config=_clip(), text_config=t.LlamaConfig(vocab_size=32064), image_token_index=token
        ),
        lambda: t.CLIPImageProcessor(size={"shortest_edge": 336}, crop_size=336),
    ),
    "llava_next": FullSize(
        "LLaVA-NeXT", "llava-hf/llava-v1.6-mistral-7b-hf", "LlavaNext",
        lambda token: t.LlavaNextConfig(
            vision_config=_clip(), text_config=t.MistralConfig(vocab_size=32064), image_token_index=token
        ),
        _next_pictures,
    ),
    "llava_next_video": FullSize(
        "LLaVA-NeXT-Video", "llava-hf/LLaVA-NeXT-Video-7B-hf", "LlavaNextVideo",
        lambda token: t.LlavaNextVideoConfig(
            vision_config=_clip(), text_config=t.LlamaConfig(vocab_size=32064), image_token_index=token
        ),
        _next_pictures,
    ),
    "video_llava": FullSize(
        "Video-LLaVA (2311.10122)", "LanguageBind/Video-LLaVA-7B-hf", "VideoLlava",
        lambda token: t.VideoLlavaConfig(
            vision_config=t.CLIPVisionConfig(**{**_CLIP_L, "image_size": 224}),
            text_config=t.LlamaConfig(vocab_size=32064), image_token_index=token,
        ),
        lambda: t.CLIPImageProcessor(),
    ),
    "llava_onevision": FullSize(
        "LLaVA-OneVision (2408.03326)", "llava-hf/llava-onevision-qwen2-7b-ov-hf", "LlavaOnevision",
        lambda token: t.LlavaOnevisionConfig(
            vision_config=_so400m(384, num_hidden_layers=26, vision_use_head=False),
            text_config=t.Qwen2Config(**_QWEN_7B), image_token_index=token,
        ),
        lambda: t.LlavaOnevisionImageProcessor(size=_square(384)),
    ),
    "idefics2": FullSize(
        "Idefics2 (2405.02246)", "HuggingFaceM4/idefics2-8b", "Idefics2Splitting",
        lambda token: t.Idefics2Config(
            vision_config={**_SO400M, "image_size": 980, "patch_size": 14},
            perceiver_config={"hidden_size": 4096}, text_config=t.MistralConfig(vocab_size=32003), image_token_id=token,
        ),
        lambda: t.Idefics2ImageProcessor(do_image_splitting=True),
    ),
    "idefics3": FullSize(
        "Idefics3 (2408.12637)", "HuggingFaceM4/Idefics3-8B-Llama3", "Idefics3",
        lambda token: t.Idefics3Config(
            vision_config={**_SO400M, "image_size": 364, "patch_size": 14},
            text_config=t.LlamaConfig(**_LLAMA3), image_token_id=token,
        ),
        t.Idefics3ImageProcessor,
    ),
    "smolvlm": FullSize(
        "SmolVLM 2 (2504.05299), its pictures", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", "SmolVLM",
        lambda token: t.SmolVLMConfig(
            vision_config={**_SO400M, "image_size": 384, "patch_size": 14}, scale_factor=3,
            text_config=t.LlamaConfig(
                hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, vocab_size=49280,
                max_position_embeddings=8192,
            ),
            image_token_id=token,
        ),
        lambda: t.Idefics3ImageProcessor(size={"longest_edge": 4 * 384}, max_image_size={"longest_edge": 384}),
    ),
    "internvl3": FullSize(
        "InternVL 3 (2504.10479), its pictures", "OpenGVLab/InternVL3-1B-hf", "InternVL",
        lambda token: t.InternVLConfig(
            vision_config=t.InternVLVisionConfig(),
            text_config=t.Qwen2Config(
                hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
                num_key_value_heads=2, vocab_size=151674,
            ),
            image_token_id=token,
        ),
        lambda: t.GotOcr2ImageProcessor(size=_square(448), crop_to_patches=True),
    ),
    "aya_vision": FullSize(
        "Aya Vision (2505.08751)", "CohereLabs/aya-vision-8b", "AyaVision",
        lambda token: t.AyaVisionConfig(
            vision_config=_so400m(364), image_token_index=token,
            text_config=t.Cohere2Config(
                hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, **_GROUPED
            ),
        ),
        lambda: t.GotOcr2ImageProcessor(size=_square(364), crop_to_patches=True),
        unknown=("width",),
    ),
    "deepseek_vl": FullSize(
        "DeepSeek-VL (2403.05525)", "deepseek-community/deepseek-vl-1.3b-chat", "DeepseekVL",
        lambda token: t.DeepseekVLConfig(
            vision_config=t.SiglipVisionConfig(**{**_CLIP_L, "image_size": 384, "patch_size": 16}),
            text_config=t.LlamaConfig(
                hidden_size=2048, intermediate_size=5632, num_hidden_layers=24, num_attention_heads=16,
                vocab_size=102400, max_position_embeddings=16384,
            ),
            image_token_id=token,
        ),
        t.DeepseekVLImageProcessor,
    ),
    "deepseek_vl_hybrid": FullSize(
        "DeepSeek-VL with two towers (2403.05525)", "deepseek-community/deepseek-vl-7b-chat", "DeepseekVLHybrid",
        lambda token: t.DeepseekVLHybridConfig(
            vision_config=t.SiglipVisionConfig(**{**_CLIP_L, "image_size": 384, "patch_size": 16}),
            high_res_vision_config=t.SamVisionConfig(image_size=1024),
            text_config=t.LlamaConfig(num_hidden_layers=30, vocab_size=102400, max_position_embeddings=16384),
            image_token_id=token,
        ),
        t.DeepseekVLHybridImageProcessor,
    ),
    "blip2": FullSize(
        "BLIP-2 (2301.12597)", "Salesforce/blip2-opt-2.7b", "Blip2",
        lambda token: t.Blip2Config(
            text_config=t.OPTConfig(
                hidden_size=2560, ffn_dim=10240, num_hidden_layers=32, num_attention_heads=32, word_embed_proj_dim=2560,
                vocab_size=50304,
            ),
            image_token_index=token,
        ),
        one_question=True,
    ),
    "instructblip": FullSize(
        "InstructBLIP (2305.06500)", "Salesforce/instructblip-vicuna-7b", "InstructBlip",
        lambda token: t.InstructBlipConfig(
            text_config=t.LlamaConfig(vocab_size=32001), qformer_config={"vocab_size": 30523}, image_token_index=token
        ),
        one_question=True,
    ),
    "qwen2_vl": FullSize(
        "Qwen2-VL (2409.12191), its pictures", "Qwen/Qwen2-VL-2B-Instruct", "Qwen2VL",
        lambda token: t.Qwen2VLConfig(
            vision_config={"depth": 32, "embed_dim": 1280, "num_heads": 16, "hidden_size": 1536, "patch_size": 14},
            text_config={
                **_QWEN_SMALL, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
                "num_attention_heads": 12, "rope_parameters": dict(_ROPE),
            },
            image_token_id=token,
        ),
        t.Qwen2VLImageProcessor,
    ),
    "qwen2_5_vl": FullSize(
        "Qwen2.5-VL (2502.13923), its pictures", "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen2_5_VL",
        lambda token: t.Qwen2_5_VLConfig(
            vision_config={"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048},
            text_config={
                **_QWEN_SMALL, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
                "num_attention_heads": 16, "rope_parameters": dict(_ROPE),
            },
            image_token_id=token,
        ),
        t.Qwen2VLImageProcessor,
    ),
    "qwen3_vl": FullSize(
        "Qwen3-VL, its pictures", "Qwen/Qwen3-VL-8B-Instruct", "Qwen3VL",
        lambda token: t.Qwen3VLConfig(
            vision_config={"out_hidden_size": 4096},
            text_config={
                "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, **_GROUPED,
                "vocab_size": 151936, "rope_parameters": {**_ROPE, "rope_theta": 5e6, "mrope_section": [24, 20, 20]},
            },
            image_token_id=token,
        ),
        lambda: t.Qwen2VLImageProcessor(patch_size=16),
    ),
    "pixtral": FullSize(
        "Pixtral (2410.07073)", "mistral-community/pixtral-12b", "Pixtral",
        lambda token: t.LlavaConfig(
            vision_config=t.PixtralVisionConfig(), text_config=_nemo(), vision_feature_layer=-1,
            vision_feature_select_strategy="full", image_token_index=token,
        ),
        lambda: t.PixtralImageProcessor(size={"longest_edge": 1024}, patch_size=16),
    ),
    "mistral3": FullSize(
        "Mistral Small 3.1", "mistralai/Mistral-Small-3.1-24B-Instruct-2503", "Mistral3",
        lambda token: t.Mistral3Config(
            vision_config=t.PixtralVisionConfig(patch_size=14, image_size=1540),
            text_config=t.MistralConfig(
                **_GROUPED, hidden_size=5120, intermediate_size=32768, num_hidden_layers=40, head_dim=128,
                vocab_size=131072, rms_norm_eps=1e-5,
            ),
            image_token_index=token,
        ),
        lambda: t.PixtralImageProcessor(size={"longest_edge": 1540}, patch_size=14),
    ),
    "lfm2_vl": FullSize(
        "LFM2-VL (2511.23404)", "LiquidAI/LFM2-VL-1.6B", "Lfm2Vl",
        lambda token: t.Lfm2VlConfig(
            vision_config=t.Siglip2VisionConfig(**_SO400M, patch_size=16, num_patches=256),
            text_config=t.Lfm2Config(
                hidden_size=2048, intermediate_size=12288, num_hidden_layers=16, **_GROUPED, vocab_size=65536,
                max_position_embeddings=128000, full_attn_idxs=[2, 5, 8, 10, 12, 14],
            ),
            image_token_id=token,
        ),
        t.Lfm2VlImageProcessor,
    ),
    "ovis2": FullSize(
        "Ovis 2 (2405.20797)", "thisisiron/Ovis2-1B-hf", "Ovis2",
        lambda token: t.Ovis2Config(
            vision_config=t.Ovis2Config.sub_configs["vision_config"](
                image_size=448, vocab_size=65536, hidden_stride=2
            ),
            text_config=t.Qwen2Config(
                **_QWEN_SMALL, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
            ),
            hidden_size=896, vocab_size=151936, image_token_id=token,
            visual_indicator_token_ids=tuple(range(token + 2, token + 7)),
        ),
        lambda: t.Ovis2ImageProcessor(size=_square(448), crop_to_patches=True),
    ),
    "llama4": FullSize(
        "Llama 4 Scout", "meta-llama/Llama-4-Scout-17B-16E-Instruct", "Llama4",
        lambda token: t.Llama4Config(
            vision_config=t.Llama4VisionConfig(
                hidden_size=1408, image_size=336, vision_output_dim=4096,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            ),
            text_config=t.Llama4TextConfig(), image_token_index=token,
        ),
        t.Llama4ImageProcessor,
    ),
    "fuyu": FullSize(
        "Fuyu", "adept/fuyu-8b", "Fuyu",
        lambda token: t.FuyuConfig(
            text_config=t.PersimmonConfig(
                vocab_size=262144, hidden_size=4096, intermediate_size=16384, num_hidden_layers=36,
                num_attention_heads=64, max_position_embeddings=16384, qk_layernorm=True,
            ),
            image_token_id=token,
        ),
        t.FuyuImageProcessor,
        one_question=True,
    ),
    "llama_3_2_vision": FullSize(
        "Llama 3.2 Vision (2407.21783)", "meta-llama/Llama-3.2-11B-Vision-Instruct", "Mllama",
        lambda token: t.MllamaConfig(
            vision_config=t.MllamaVisionConfig(image_size=560), text_config=t.MllamaTextConfig(),
            image_token_index=token,
        ),
        lambda: t.MllamaImageProcessor(size=_square(560)),
    ),
    "paligemma": FullSize(
        "PaliGemma (2407.07726)", "google/paligemma-3b-mix-224", "PaliGemma",
        lambda token: t.PaliGemmaConfig(
            vision_config=_so400m(224, vision_use_head=False), projection_dim=2048,
            text_config=t.GemmaConfig(
                vocab_size=257216, hidden_size=2048, intermediate_size=16384, num_hidden_layers=18,
                num_attention_heads=8, num_key_value_heads=1,
            ),
            image_token_index=token,
        ),
        lambda: t.SiglipImageProcessor(size=_square(224), image_seq_length=256),
        one_question=True,
    ),
    "gemma3": FullSize(
        "Gemma 3 (2503.19786)", "google/gemma-3-4b-it", "Gemma3",
        lambda token: t.Gemma3Config(
            vision_config=_so400m(896, vision_use_head=False),
            text_config=t.Gemma3TextConfig(
                vocab_size=262208, hidden_size=2560, intermediate_size=10240, num_hidden_layers=34,
                num_attention_heads=8, num_key_value_heads=4, head_dim=256, sliding_window=1024,
            ),
            image_token_index=token,
        ),
        lambda: t.Gemma3ImageProcessor(size=_square(896)),
    ),
    "qwen2_audio": FullSize(
        "Qwen2-Audio (2407.10759)", "Qwen/Qwen2-Audio-7B-Instruct", "Qwen2Audio",
        lambda token: t.Qwen2AudioConfig(
            text_config=t.Qwen2Config(
                hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
                vocab_size=156032,
            ),
            audio_token_index=token,
        ),
        lambda: t.WhisperFeatureExtractor(feature_size=128),
    ),
    "audio_flamingo_3": FullSize(
        "Audio Flamingo 3 (2507.08128)", "nvidia/audio-flamingo-3-hf", "AudioFlamingo3",
        lambda token: t.AudioFlamingo3Config(text_config=t.Qwen2Config(**_QWEN_7B), audio_token_id=token),
        lambda: t.WhisperFeatureExtractor(feature_size=128),
    ),
    "granite_speech": FullSize(
        "Granite Speech (2505.08699)", "ibm-granite/granite-speech-3.3-8b", "GraniteSpeech",
        lambda token: t.GraniteSpeechConfig(
            projector_config=t.Blip2QFormerConfig(
                num_hidden_layers=2, encoder_hidden_size=1024, cross_attention_frequency=1
            ),
            text_config=t.GraniteConfig(
                **_GROUPED, hidden_size=4096, intermediate_size=12800, num_hidden_layers=40, vocab_size=49160,
                max_position_embeddings=131072,
            ),
            audio_token_index=token, has_lora_adapter=False,
        ),
        more=("lora",),
    ),
    "voxtral": FullSize(
        "Voxtral (2507.13264)", "mistralai/Voxtral-Mini-3B-2507", "Voxtral",
        lambda token: t.VoxtralConfig(
            audio_config={"hidden_size": 1280, "intermediate_size": 5120, "num_mel_bins": 128},
            text_config=t.LlamaConfig(
                hidden_size=3072, intermediate_size=8192, num_hidden_layers=30, **_GROUPED, head_dim=128,
                vocab_size=131072, max_position_embeddings=131072,
            ),
            audio_token_id=token,
        ),
        lambda: t.WhisperFeatureExtractor(feature_size=128),
    ),
}  # fmt: skip
"""Name of the recipe -> the checkpoint."""
