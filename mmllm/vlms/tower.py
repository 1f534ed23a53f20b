"""The vision or audio tower of a published multimodal folder as a model of its own; called by encoders' loading."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers import AutoConfig, CLIPImageProcessor, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from mmllm.errors import MmllmError
from mmllm.vlms.families import Family, family_of
from mmllm.vlms.partial import load_part

PLAIN = (
    "clip_vision_model", "siglip_vision_model", "dinov2", "internvl_vision", "idefics3_vision", "smolvlm_vision",
    "blip_2_vision_model", "instructblip_vision_model", "qwen2_audio_encoder", "voxtral_encoder",
    "audioflamingo3_encoder", "granite_speech_encoder", "ovis2_vision",
    "llama4_vision_model",
)  # fmt: skip
"""Kinds of towers (``model_type``) that take pictures of one size or windows of sound, as encoders here make them."""
NATIVE = (
    "pixtral", "siglip2_vision_model", "idefics2_vision", "qwen2_vl_vision", "qwen2_5_vl_vision", "qwen3_vl_vision",
)  # fmt: skip
"""Kinds of towers that take pictures of any size, as the encoder hf_native makes them."""

OWN: Mapping[str, str] = {"mllama_vision_model": "mllama_vision"}
"""Kinds of towers that one type of encoder alone runs -> that type."""
OWN_CLASS: Mapping[str, str] = {"mllama_vision_model": "MllamaVisionModel"}
"""Kind of such a tower -> its class in transformers."""

TILES = (
    "image_grid_pinpoints", "do_image_splitting", "crop_to_patches", "do_pan_and_scan", "resize_to_max_canvas"
)  # fmt: skip
"""Settings of image processors that cut a picture into several."""
KEPT = ("resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb")


def load_tower(path: str, modality: str, native: bool = False, clips: bool = False) -> PreTrainedModel | None:
    """The float32 tower of the published model at ``path``; None where it is no such model.

    ``native``: one that takes pictures of any size is wanted; ``clips``: the one for frames of clips.

    Raises:
        MmllmError: it has none of its own for clips, it hears instead of sees (or the reverse), weights are missing, or
            its tower takes what no encoder here makes.
    """
    config = AutoConfig.from_pretrained(path)
    family = family_of(config)
    if family is None:
        return None
    if family.modality != modality:
        word = {"image": "hf_vision", "audio": "hf_audio"}[family.modality]
        raise MmllmError(f'"{path}" is {family.name}, whose tower is for {family.modality}; use {word}.')
    if not family.tower:
        raise MmllmError(f'"{path}" is {family.name}, which has no tower: its LLM is given pixels; use patches.')
    tower: Any = getattr(config, family.tower_config)
    if tower.model_type in OWN:
        raise MmllmError(f'"{path}" is {family.name}, whose tower has an encoder of its own: {OWN[tower.model_type]}.')
    if tower.model_type not in (NATIVE if native else PLAIN):
        raise _other_kind(path, family, tower.model_type)
    if clips and family.clip_tower is None:
        raise MmllmError(f'"{path}" is {family.name}, which has one tower for pictures and clips; leave `tower` out.')
    module = str(family.clip_tower) if clips else family.tower
    if hasattr(tower, "vision_use_head"):
        tower.vision_use_head = False  # SigLIP's pooling head: hidden states do not pass through it, many files lack it
    return load_part(path, _class_of(family, tower), tower, _names(module), torch.float32)


def _class_of(family: Family, tower: Any) -> type[PreTrainedModel]:
    """The class of a family's tower."""
    if family.tower_class is None:
        known: type[PreTrainedModel] = MODEL_MAPPING[type(tower)]
        return known
    module, _, name = family.tower_class.partition(":")
    found: type[PreTrainedModel] = getattr(importlib.import_module(module), name)
    return found


def _other_kind(path: str, family: Family, kind: str) -> MmllmError:
    """Error for a tower of another kind than the one that is asked for."""
    start = f'"{path}" is {family.name}, whose tower ({kind}) takes pictures of '
    if kind in PLAIN:
        return MmllmError(f"{start}one size; use hf_vision.")
    if kind in NATIVE:
        return MmllmError(f"{start}any shape; use hf_native.")
    return MmllmError(
        f"{start}any shape in patches of its own; no encoder here computes it. Its text model can be used: llm: "
        "{path: ...}."
    )


def load_own_tower(path: str, kind: str) -> PreTrainedModel:
    """The float32 tower of the published model at ``path``, of the kind (``model_type``) that an encoder is for.

    Raises:
        MmllmError: its tower is of another kind, or weights are missing.
    """
    config = AutoConfig.from_pretrained(path)
    family = family_of(config)
    tower: Any = None if family is None else getattr(config, family.tower_config)
    if family is None or tower.model_type != kind:
        found = config.model_type if tower is None else f"{config.model_type}, whose tower is {tower.model_type}"
        raise MmllmError(f'"{path}" is a {found}; an encoder of type {OWN[kind]} takes a {kind}.')
    return load_part(path, getattr(transformers, OWN_CLASS[kind]), tower, _names(family.tower), torch.float32)


def whole_picture(own: Any, path: str) -> Any:
    """The image processor ``own`` of a folder; of one that cuts pictures into tiles, its view of the whole picture.

    That view has the tower's size; how it resizes and normalises stays the folder's.
    """
    if not any(hasattr(own, word) for word in TILES):
        return own
    family_config = AutoConfig.from_pretrained(path)
    family = family_of(family_config)
    if family is None or not family.tower:
        return own
    side = getattr(family_config, family.tower_config).image_size
    height, width = (side, side) if isinstance(side, int) else side
    words = {word: value for word in KEPT if (value := getattr(own, word)) is not None}
    return CLIPImageProcessor(size={"height": height, "width": width}, do_center_crop=False, **words)


def _names(tower: str) -> Mapping[str, str]:
    return {rf"^(model\.)?{tower}\.": ""}
