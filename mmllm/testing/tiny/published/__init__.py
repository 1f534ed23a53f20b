"""Tiny random published models with processors and chat templates as their own classes save them, odd ones too.

One file for each family: its models, and the configurations of them that are imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmllm.testing.tiny.published import (
    aya_vision,
    blip,
    deepseek_vl,
    fuyu,
    gemma3,
    granite_speech,
    idefics2,
    idefics3,
    internvl,
    lfm2_vl,
    llama4,
    llava,
    llava_next,
    llava_onevision,
    mllama,
    ovis2,
    paligemma,
    pixtral,
    qwen_vl,
    sounds,
    video_llava,
)
from mmllm.testing.tiny.published.folder import Case, Published, save

_FAMILIES = (
    llava, llava_next, llava_onevision, video_llava, idefics2, idefics3, internvl, aya_vision, deepseek_vl, blip,
    qwen_vl, pixtral, lfm2_vl, ovis2, llama4, fuyu, mllama, paligemma, gemma3, sounds, granite_speech,
)  # fmt: skip
PUBLISHED: Mapping[str, Published] = {name: made for family in _FAMILIES for name, made in family.PUBLISHED.items()}
"""Beginning of the class's name -> how a tiny one is made."""
CASES: Mapping[str, Case] = {name: case for family in _FAMILIES for name, case in family.CASES.items()}
"""Name -> configuration that is imported."""


def published_folder(name: str, folder: Path, **words: Any) -> Path:
    """Save a tiny random model; ``words``: ``template``, ``bos``, and changes of the configuration."""
    return save(PUBLISHED[name], name, folder, **words)
