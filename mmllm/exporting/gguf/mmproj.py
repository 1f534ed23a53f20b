"""``mmproj.gguf``: a run's tower and projector as llama.cpp reads them, and what it does to pictures beforehand."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from gguf import GGUFWriter

from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.encoders.image.open_clip import OpenClipEncoder
from mmllm.errors import MmllmError
from mmllm.exporting.gguf.projectors import Projection, projection_of
from mmllm.exporting.gguf.tensor_file import Entry
from mmllm.exporting.gguf.text_model import unfit
from mmllm.exporting.gguf.towers import CLASS, PATCHES, POSITIONS, Tower, tower_of
from mmllm.model.inputs import Input
from mmllm.model.model import MultimodalLM
from mmllm.recipe.models import Recipe

ALLOWED = ("pixels", "text", "class-token", "no-clips")
"""What ``--allow`` takes as different in llama.cpp: pixels of pictures that are resized, the text around a picture,
the place of a class token; and that clips, which a run sees by the weights of its pictures, are not seen there."""
RESAMPLINGS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Numbers of Pillow."""


@dataclass(frozen=True)
class Pictures:
    """The second file of a run that sees pictures."""

    tower: Tower
    projection: Projection
    dim: int
    """Width of the LLM."""
    scale: float
    """What llama.cpp multiplies tokens by before its LLM reads them, so that they are written by so much smaller."""
    same_pixels: bool
    """Whether llama.cpp resizes pictures as the run does."""
    same_text: bool
    """Whether it puts the text around a picture that the run does."""

    @property
    def class_token(self) -> bool:
        """Whether the tower's class token stands where llama.cpp since May 2025 does not expect it."""
        return self.projection.kind == "mlp" and self.tower.has_class

    def add_keys(self, writer: GGUFWriter) -> None:
        """What llama.cpp is told besides the tensors."""
        tower, projection = self.tower, self.projection
        writer.add_type("mmproj")
        writer.add_clip_has_vision_encoder(True)
        writer.add_clip_projector_type(projection.kind)
        writer.add_bool("clip.has_llava_projector", projection.kind == "mlp")  # builds before 2025 ask for it
        writer.add_vision_image_size(tower.size)
        writer.add_vision_patch_size(tower.patch)
        writer.add_vision_embedding_length(tower.width)
        writer.add_vision_feed_forward_length(tower.hidden)
        writer.add_vision_block_count(tower.blocks)
        writer.add_vision_head_count(tower.heads)
        writer.add_vision_projection_dim(self.dim)
        writer.add_vision_attention_layernorm_eps(tower.eps)
        writer.add_vision_image_mean(list(tower.mean))
        writer.add_vision_image_std(list(tower.std))
        writer.add_vision_use_gelu(tower.activation == "gelu")
        writer.add_vision_use_silu(tower.activation == "silu")
        if projection.kind == "mlp":
            writer.add_array("clip.vision.feature_layer", list(tower.layers))
        if projection.squashes and self.same_pixels:
            # no size but that of the tower: whole pictures, brought to a square
            writer.add_array("clip.vision.image_grid_pinpoints", [0, 0])
        for key, value in projection.numbers.items():
            writer.add_uint32(f"clip.vision.{key}", value)

    def entries(self, class_last: bool = False) -> Iterator[Entry]:
        """The tensors; ``class_last``: positions in the order of a class token behind the patches."""
        last = class_last or self.projection.kind == "internvl"
        for name, tensor in self.tower.tensors.items():
            change = (lambda one: torch.cat([one[1:], one[:1]])) if name == POSITIONS and last else None
            # convolutions and positions in halves lose what matrices do not; llama.cpp's converter keeps them too
            yield Entry(name, tensor, change, whole=name in (PATCHES, POSITIONS, CLASS))
        for name, tensor in self.projection.tensors.items():
            scaled = name.startswith(self.projection.last) and self.scale != 1.0
            yield Entry(name, tensor, (lambda one: one / self.scale) if scaled else None)


def pictures_of(recipe: Recipe, model: MultimodalLM, allowed: Collection[str], scale: float = 1.0) -> Pictures | None:
    """What is written of a run's tower and projector; None where it sees no pictures.

    Args:
        recipe: of the run.
        model: of the run.
        allowed: words of :data:`ALLOWED`.
        scale: what llama.cpp multiplies a picture's tokens by, where the run does not.

    Raises:
        MmllmError: llama.cpp does not compute them, or makes other pixels or text of a picture and that is not
            ``allowed``.
    """
    if not model.inputs:
        return None
    clips = [key for key, one in model.inputs.items() if one.modality == "video" and recipe.connectors[key].shares]
    if clips and "no-clips" not in allowed:
        raise unfit(
            f"pictures alone are written, and <{clips[0]}> of this run is video; --allow no-clips leaves it out"
        )
    seen = {key: one for key, one in model.inputs.items() if key not in clips}
    if len(seen) > 1:
        raise unfit(f"it takes one kind of picture, and this run's placeholders are {', '.join(seen)}")
    (entry,) = seen.values()
    if entry.modality != "image":
        raise unfit(f"pictures alone are written, and <{entry.key}> of this run is {entry.modality}")
    if len(entry.encoders) != 1:
        raise unfit(f"it has one tower, and connectors.{entry.key} takes {', '.join(entry.encoders)}")
    ((key, encoder),) = entry.encoders.items()
    tower = tower_of(encoder)
    projection = projection_of(entry.key, entry.connector, tower, encoder)
    _check_layout(model, entry, projection)
    assert isinstance(encoder, HfVisionEncoder | OpenClipEncoder)
    why = _other_pixels(encoder, recipe.encoders[key].args, projection)
    text = entry.text.around == projection.around
    found = Pictures(tower, projection, model.llm.dim, scale, same_pixels=why is None, same_text=text)
    if why is not None and "pixels" not in allowed:
        raise unfit(f"{why}; --allow pixels writes it for pictures that are {tower.size} x {tower.size} pixels already")
    if not text and "text" not in allowed:
        raise unfit(
            f"around a picture its projector {projection.kind} writes {list(projection.around)}, and connectors."
            f"{entry.key} has around: {list(entry.text.around)}; --allow text writes it all the same"
        )
    if found.class_token and "class-token" not in allowed:
        raise unfit(
            "of a tower with an mlp it has read the class token behind the patches instead of in front since May 2025, "
            f"with positions that are not theirs (its issue 25814); give connectors.{entry.key} norm: true and around: "
            "[<img>, </img>], take a tower without one (SigLIP), or write it for builds that read it right by --allow "
            "class-token"
        )
    return found


def _check_layout(model: MultimodalLM, entry: Input, projection: Projection) -> None:
    """MmllmError where tokens of a picture stand or see otherwise than they can there."""
    if entry.text.times or entry.text.tiles or entry.text.rows or entry.stitch is not None:
        raise unfit(
            f"a picture's tokens stand in one piece, and connectors.{entry.key} has times, tiles, rows or stitch"
        )
    if model.llm.prefix:
        raise unfit("its LLM is causal in texts, and this run has llm.attention: prefix")
    if entry.text.bidirectional == projection.causal:
        how = "see each other" if not projection.causal else "are read one after the other"
        raise unfit(
            f"behind its projector {projection.kind} a picture's tokens {how}, and connectors.{entry.key} says "
            f"otherwise (attends)"
        )


def _other_pixels(encoder: HfVisionEncoder | OpenClipEncoder, words: Any, projection: Projection) -> str | None:
    """Why llama.cpp makes other pixels of a picture; None where it makes the same."""
    fit = str(words.get("fit", "squash"))
    if words.get("draft"):
        return "it decodes whole pictures, and this run's encoder has draft: true"
    resample = _resampling(encoder)
    own: Any = encoder.processor.transform
    if fit == "own" and isinstance(encoder, HfVisionEncoder):
        words = ("do_center_crop", "do_pad")
        crops = any(hasattr(own.processor, word) and getattr(own.processor, word) for word in words)
        fit = "own" if crops or "height" not in own.processor.size else "squash"
    if not projection.squashes:
        return "it brings pictures that are not square to squares by black borders (gemma3), and this run does not"
    if fit != "squash":
        return f"pictures that are not square are resized to squares (fit: squash), and this run has fit: {fit}"
    if resample != projection.resample:
        return f"pictures are resized by {projection.resample} interpolation, and this run's by {resample}"
    return None


def _resampling(encoder: HfVisionEncoder | OpenClipEncoder) -> str:
    if isinstance(encoder, OpenClipEncoder):
        return str(encoder.visual.preprocess_cfg["interpolation"])
    own: Any = encoder.processor.transform
    return RESAMPLINGS.get(int(own.processor.resample), str(own.processor.resample))


def check_allowed(allowed: Collection[str]) -> None:
    """MmllmError for a word that is none of :data:`ALLOWED`."""
    unknown = [word for word in allowed if word not in ALLOWED]
    if unknown:
        raise MmllmError(f"--allow {unknown[0]} is unknown; known: {', '.join(ALLOWED)}")
