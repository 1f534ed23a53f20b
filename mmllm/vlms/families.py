"""The table of published multimodal families: how each names its parts, and in what its text model is special.

``text_model.py``, ``tower.py`` and ``projector.py`` read it. A family is found by the ``model_type`` of its config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """Where the parts of a published model lie in its checkpoint, below ``model.`` or at the top (older files)."""

    name: str
    """Name by which people know the family."""
    modality: str = "image"
    """Modality of its tower: image or audio."""
    frames_are_pictures: bool = False
    """Whether the tokens of a clip's frames are written as those of pictures are."""
    tower: str = "vision_tower"
    """Module that holds the tower; empty: there is none."""
    clip_tower: str | None = None
    """Module that holds another tower for frames of clips; None: they are seen by the same one."""
    tower_config: str = "vision_config"
    """Word of the config that describes the tower."""
    projector: str = "multi_modal_projector"
    """Module that holds the projector."""
    stacks: str | None = None
    """Module that holds projectors of further layers, for blocks of the LLM."""
    text: Mapping[str, Any] = field(default_factory=dict)
    """Words of the text config that the whole model's class does not apply -> the value that leaves them out."""
    several: bool = True
    """Whether its processor takes several items in one conversation."""
    causal_lm: str | None = None
    """Class of the causal LM, where transformers knows none by the text config alone."""
    cross_attention: str | None = None
    """Word of the text config that lists those of its blocks which read the tower's states instead of text: they are
    a connector's, the LLM is made of the others."""
    tower_class: str | None = None
    """Module and class of the tower in transformers, where its auto classes know none."""
    pads_together: bool = False
    """Whether its processor pads several sounds to the longest, and its tower hears that: they are compared at one
    length."""
    own_head: bool = False
    """Whether its text model is a causal LM with a head of its own, whose config says whether that is tied."""
    conversations: bool = True
    """Whether its processor knows conversations; else it takes one text, puts a picture's tokens in front of it, and
    the whole model reads no text without a picture."""


_BLIP: Mapping[str, Any] = {
    "tower": "vision_model",
    "projector": "language_projection",
    "own_head": True,
    "conversations": False,
}

# Scales, caps and prefixes: read in transformers 5.23. The multimodal classes put a plain head on the decoder, so what
# the text class does to its logits on top must be left out for equal logits. PaliGemma's config makes its text model
# see everything in both directions, answers too, where nobody hands it a mask; as an LLM it is causal, and reads
# prompts in both directions where `llm.attention` says so.
FAMILIES: Mapping[str, Family] = {
    "llava": Family("LLaVA 1.5"),
    "llava_next": Family("LLaVA-NeXT"),
    "llava_next_video": Family("LLaVA-NeXT-Video"),
    "llava_onevision": Family("LLaVA-OneVision"),
    "video_llava": Family("Video-LLaVA", tower="image_tower", clip_tower="video_tower"),
    "internvl": Family("InternVL", frames_are_pictures=True),
    "idefics2": Family(
        "Idefics2",
        tower="vision_model",
        tower_class="transformers.models.idefics2.modeling_idefics2:Idefics2VisionTransformer",
        projector="connector",
    ),
    "idefics3": Family("Idefics3", tower="vision_model", projector="connector.modality_projection"),
    "smolvlm": Family(
        "SmolVLM", tower="vision_model", projector="connector.modality_projection", frames_are_pictures=True
    ),
    "paligemma": Family("PaliGemma", text={"use_bidirectional_attention": None}),
    "gemma3": Family("Gemma 3", text={"final_logit_softcapping": None}),
    "deepseek_vl": Family("DeepSeek-VL", tower="vision_model", projector="aligner"),
    "deepseek_vl_hybrid": Family("DeepSeek-VL, two towers", tower="vision_model", projector="aligner"),
    "ovis2": Family("Ovis 2", tower_class="mmllm.vlms.ovis2:Ovis2Tower", projector="visual_embeddings_table"),
    "llama4": Family(
        "Llama 4",
        tower="vision_model",
        tower_class="mmllm.vlms.llama4:Llama4Tower",
        own_head=True,
    ),
    "fuyu": Family("Fuyu", tower="", tower_config="", projector="vision_embed_tokens"),
    "mllama": Family(
        "Llama 3.2 Vision",
        tower="vision_model",
        causal_lm="MllamaForCausalLM",
        cross_attention="cross_attention_layers",
    ),
    "mistral3": Family("Mistral 3"),
    "aya_vision": Family("Aya Vision", text={"logit_scale": 1.0}),
    "blip-2": Family("BLIP-2", tower_class="transformers:Blip2VisionModel", **_BLIP),
    "instructblip": Family("InstructBLIP", tower_class="transformers:InstructBlipVisionModel", **_BLIP),
    "qwen2_vl": Family(
        "Qwen2-VL",
        tower="visual",
        tower_class="transformers.models.qwen2_vl.modeling_qwen2_vl:Qwen2VisionTransformerPretrainedModel",
        projector="visual.merger",
    ),
    "qwen2_5_vl": Family("Qwen2.5-VL", tower="visual", projector="visual.merger"),
    "qwen3_vl": Family("Qwen3-VL", tower="visual", projector="visual.merger", stacks="visual.deepstack_merger_list"),
    "lfm2_vl": Family("LFM2-VL"),
    "qwen2_audio": Family("Qwen2-Audio", modality="audio", tower="audio_tower", tower_config="audio_config"),
    "audioflamingo3": Family(
        "Audio Flamingo 3", modality="audio", tower="audio_tower", tower_config="audio_config", several=False
    ),
    "granite_speech": Family(
        "Granite Speech",
        modality="audio",
        tower="encoder",
        tower_config="encoder_config",
        tower_class="transformers:GraniteSpeechCTCEncoder",
        projector="projector",
        text={"logits_scaling": 1.0},
        pads_together=True,
    ),
    "voxtral": Family("Voxtral", modality="audio", tower="audio_tower", tower_config="audio_config"),
}
"""``model_type`` -> family."""


def known() -> str:
    """Names of the families, for sentences."""
    return ", ".join(family.name for family in FAMILIES.values())


def family_of(config: Any) -> Family | None:
    """The family of a config of transformers; None for a model that is none of them."""
    return FAMILIES.get(config.model_type)
