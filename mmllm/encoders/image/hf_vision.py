"""Image encoders of transformers (CLIP, SigLIP, DINOv2, DINOv3, ViT, ...) from a hub id or a local folder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from transformers import AutoImageProcessor, PreTrainedModel

from mmllm.encoders.blocks import blocks_of, list_name
from mmllm.encoders.hook_points import BlockHooks
from mmllm.encoders.image.vit_base import ImageEncoder, Keep, kept
from mmllm.encoders.pretrained import load_model, load_processor, load_published
from mmllm.encoders.recording import Blocks, recorded
from mmllm.errors import MmllmError
from mmllm.processors.image import MAX_PIXELS, HfTransform, ImageProcessor, check_fit
from mmllm.types import Layer
from mmllm.vlms.llama4 import Llama4Tower
from mmllm.vlms.tower import whole_picture

PREFIX_PARAMETERS = ("class_embedding", "cls_token", "distillation_token", "register_tokens")
"""Parameters by which vision models of transformers declare the tokens that stand in front of the patches."""

VIT = ("hidden_size", "num_hidden_layers", "patch_size", "image_size")
"""Words in the configuration of every vision transformer of one width."""

FRAMES = ("num_frames", "frames_per_clip")
"""Words in the configuration of a model that takes frames of clips (VideoMAE, X-CLIP)."""


class HfVisionEncoder(ImageEncoder):
    """A vision transformer of transformers; of an image-text model (CLIP, SigLIP) or a published VLM the tower alone.

    How many class and register tokens to drop comes from the parameters that the model's embeddings hold and is
    compared with the length of every hidden state, so a SigLIP tower of 27 x 27 patches gives 729 tokens.
    Pixels are prepared by the folder's own image processor, except that ``fit: squash`` (default) and ``pad`` replace a
    centre crop, which would silently remove parts of the picture; ``crop`` is the processor's own behaviour, and
    ``own`` that of any processor, tiles left out. Under squash, boxes in coordinates of 0..1 stay valid. ``image_size``
    overrides the processor's size (a square in pixels). ``draft`` decodes large JPEGs at reduced size, in about half
    the time; their pixels differ a little. ``keep: all`` gives the class and register tokens in front of the patches as
    well, on a grid of one row. ``tower: video`` takes the tower for frames of clips where a published VLM has another
    one for them (Video-LLaVA).
    """

    gives_final = True

    def __init__(
        self,
        *,
        model: str,
        layers: Sequence[int | Literal["final"]] = (-2,),
        fit: str = "squash",
        image_size: int | None = None,
        max_pixels: int = MAX_PIXELS,
        draft: bool = False,
        keep: Keep = "patches",
        tower: str | None = None,
    ) -> None:
        super().__init__(layers=layers)
        check_fit(fit, own=True)
        if tower not in (None, "video"):
            raise MmllmError(f'tower: "{tower}" is unknown; known: video. Without the word it is that of pictures.')
        self.vision = load_vision(model, clips=tower is not None)
        config = self.vision.config
        accepted = inspect.signature(self.vision.forward).parameters
        if not _takes_pictures(accepted, config):
            kind = type(self.vision).__name__
            raise MmllmError(
                f'"{model}": a {kind} does not take plain pictures; use a ViT of fixed size, or hf_native.'
            )
        lacking = [name for name in VIT if not hasattr(config, name)]
        if lacking:
            raise MmllmError(
                f'"{model}" holds a {type(self.vision).__name__}, which is no vision transformer over patches (its '
                f"configuration has no {lacking[0]}); choose a ViT, CLIP, SigLIP or DINO instead."
            )
        self.dim = config.hidden_size
        self._blocks = list_name(self.vision, config.num_hidden_layers)
        # Counted now: under ZeRO-3 a weight has no shape outside of its module's forward.
        declared = [p for name, p in self.vision.named_parameters() if name.rpartition(".")[2] in PREFIX_PARAMETERS]
        self._prefix = sum(parameter.numel() // self.dim for parameter in declared)
        self._behind = 0
        """Class tokens behind the patches; they are never given."""
        if isinstance(self.vision, Llama4Tower):
            self._prefix, self._behind = 0, self._prefix
        own = load_processor(AutoImageProcessor, model, "a picture")
        if fit == "own":
            if image_size is not None:
                raise MmllmError("image_size: with fit: own the folder's processor decides; leave image_size out.")
            size = sides(config.image_size)
        else:
            own = whole_picture(own, model)
            size = processed_size(own) if image_size is None else (image_size, image_size)
        self.processor = ImageProcessor(
            HfTransform(own, size, fit, own_size=image_size is None),
            size=size,
            patch=sides(config.patch_size),
            max_pixels=max_pixels,
            draft=draft,
            prefix=kept(keep, self._prefix),
        )
        # Models with a table of positions refuse other sizes unless told; the others interpolate or rotate anyway.
        resized = "interpolate_pos_encoding" in accepted and size != sides(config.image_size)
        self.options: dict[str, Any] = {"interpolate_pos_encoding": True} if resized else {}
        self.resolve(self.n_blocks)
        self.freeze()

    @property
    def n_blocks(self) -> int:
        """Transformer blocks of the vision tower."""
        return self.vision.config.num_hidden_layers

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches: the lengths of the prefix parameters that the model holds."""
        return self._prefix

    @property
    def blocks(self) -> Blocks:
        """The tower's list of transformer blocks (a view: registering it twice would store every weight twice)."""
        blocks = self.vision.get_submodule(self._blocks)
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    def hidden(self, pixels: Tensor, wanted: Sequence[Layer]) -> list[Tensor]:
        """What enters the first and leaves the other blocks, and the tower's ``last_hidden_state``."""

        def run() -> Tensor:
            last: Tensor = self.vision(pixel_values=pixels, **self.options).last_hidden_state
            return last

        # of CLIP and its kin, which norm the class token alone; OWL-ViT, say, norms CLIP's patches with it as well
        norm = dict(self.vision.named_children()).get("post_layernorm")
        found = recorded(self.blocks, wanted, run, norm)
        # what the tower itself gives is without them
        return [
            state if layer == "final" or not self._behind else state[:, : -self._behind]
            for layer, state in zip(wanted, found, strict=True)
        ]

    def hook_points(self) -> BlockHooks:
        """Return the tower's blocks; MmllmError where they have tokens behind the patches, which no layout knows."""
        if self._behind:
            raise MmllmError(
                f"a {type(self.vision).__name__} has its class token behind the patches, where no connector inside an "
                "encoder expects one; use another tower"
            )
        return BlockHooks(blocks_of(self.vision, self.n_blocks), self.dim, self.scope)


def load_vision(model: str, native: bool = False, clips: bool = False) -> PreTrainedModel:
    """The vision tower in float32 with every weight that its hidden states need, safetensors only.

    ``native``: one that takes pictures of any size; ``clips``: that of a published model for frames of clips.
    """
    published = load_published(model, "image", "a vision model", native=native, clips=clips)
    if published is not None:
        return published
    if clips:
        raise MmllmError(f'"{model}" is no published VLM with a tower for frames of clips; leave `tower` out.')
    config, loaded, info = load_model(model, "a vision model")
    inner = "vision_config" in config.sub_configs
    tower = getattr(loaded, "vision_model", None) if inner else loaded
    if not isinstance(tower, PreTrainedModel):
        raise MmllmError(
            f'"{model}" holds a {type(loaded).__name__}, whose vision tower is not taken; give a ViT, CLIP, SigLIP or '
            "DINO, or a published LLaVA, PaliGemma, Gemma 3, InternVL or SmolVLM."
        )
    front = "vision_model." if inner else ""
    missing = {key.removeprefix(front) for key in info["missing_keys"] if key.startswith(front)}
    pooler = {key for key in missing if key.startswith("pooler.")}
    if missing - pooler or info["mismatched_keys"]:
        lacking = sorted(missing - pooler) or sorted(str(key) for key in info["mismatched_keys"])
        raise MmllmError(f'the weights of "{model}" do not fill the model: {", ".join(lacking[:5])}.')
    if pooler:
        tower.pooler = None  # hidden states do not pass through it, and random weights would change the digest
    return tower


def _takes_pictures(accepted: Mapping[str, inspect.Parameter], config: Any) -> bool:
    """Whether a model with these arguments of its forward needs pictures of one size and nothing else."""
    # spatial_shapes, image_sizes: SigLIP 2 NaFlex and Pixtral take pictures of any shape; input_ids: a whole Fuyu
    if "pixel_values" not in accepted or {"spatial_shapes", "image_sizes", "input_ids"} & accepted.keys():
        return False
    if any(hasattr(config, word) for word in FRAMES):
        return False
    named = [one for one in accepted.values() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    return all(one.name == "pixel_values" or one.default is not one.empty for one in named)


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a config value that is one number or two."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def processed_size(processor: Any) -> tuple[int, int]:
    """(height, width) of what a processor returns for a square picture."""
    if processor.do_center_crop and processor.crop_size:
        return processor.crop_size["height"], processor.crop_size["width"]
    size = dict(processor.size)
    if size.get("shortest_edge"):
        return size["shortest_edge"], size["shortest_edge"]
    return size["height"], size["width"]
