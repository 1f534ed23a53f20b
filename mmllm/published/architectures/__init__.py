"""One file for each kind of published model: its encoders and connectors as a recipe has them.

A file has one function, ``sections(source) -> Sections``; the table says which file a model's ``model_type`` means.
"""

from __future__ import annotations

from collections.abc import Mapping

TABLE: Mapping[str, str] = {
    "llava": "llava",
    "llava_next": "llava_next",
    "llava_next_video": "llava_next",
    "llava_onevision": "llava_onevision",
    "video_llava": "video_llava",
    "mistral3": "mistral3",
    "internvl": "internvl",
    "aya_vision": "aya_vision",
    "deepseek_vl": "deepseek_vl",
    "deepseek_vl_hybrid": "deepseek_vl",
    "idefics2": "idefics2",
    "idefics3": "idefics3",
    "smolvlm": "idefics3",
    "blip-2": "blip",
    "instructblip": "blip",
    "gemma3": "gemma3",
    "paligemma": "paligemma",
    "qwen2_vl": "qwen_vl",
    "qwen2_5_vl": "qwen_vl",
    "qwen3_vl": "qwen_vl",
    "lfm2_vl": "lfm2_vl",
    "ovis2": "ovis2",
    "llama4": "llama4",
    "fuyu": "fuyu",
    "qwen2_audio": "qwen2_audio",
    "audioflamingo3": "audioflamingo3",
    "granite_speech": "granite_speech",
    "voxtral": "voxtral",
    "mllama": "mllama",
}
"""``model_type`` of a configuration -> file of this folder."""
NEEDS: Mapping[str, tuple[str, str]] = {"granite_speech": ("torchaudio", "granite")}
"""``model_type`` -> package that its processor asks for, and the extra of ours that brings it."""
