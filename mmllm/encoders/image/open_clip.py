"""Image encoders of open_clip: a model name with a pretrained tag, or a local folder. Only the visual tower is kept."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import open_clip
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import VisionTransformer
from safetensors import SafetensorError
from torch import Tensor, nn

from mmllm.encoders.hook_points import BlockHooks
from mmllm.encoders.image.open_clip_weights import (
    NO_TAG,
    declares_quick_gelu,
    needs_quick_gelu,
    no_weights_expected,
    of_file,
)
from mmllm.encoders.image.vit_base import ImageEncoder, Keep, kept
from mmllm.encoders.recording import recorded
from mmllm.errors import MmllmError
from mmllm.processors.image import MAX_PIXELS, ImageProcessor, check_fit
from mmllm.types import Layer
from mmllm.vlms.weightless import weightless

RESIZE_MODES = {"squash": "squash", "pad": "longest", "crop": "shortest"}
"""Our ``fit`` -> open_clip's ``resize_mode``."""


class OpenClipEncoder(ImageEncoder):
    """A vision transformer of open_clip (Radford et al. 2021, arXiv 2103.00020, and its successors).

    ``model`` with ``pretrained``: a name and tag of open_clip (``ViT-L-14-336``, ``openai``), or ``hf-hub:org/repo``.
    ``pretrained`` may also be a ``.safetensors`` file for that architecture; it says nothing of how it was trained, so
    ``tag`` names the published weights that it holds (``none``: nobody's, used with open_clip's defaults) wherever
    those of this name need other pixels or another activation than the defaults. ``quick_gelu`` says the activation
    where nothing else does.
    ``model`` alone: a folder with ``open_clip_config.json`` and ``open_clip_model.safetensors``.
    Pixels are prepared by the model's own mean, std, size and interpolation; ``fit`` says what happens to pictures that
    are not square (squash | pad | crop): squash loses nothing and keeps boxes in coordinates of 0..1 valid.
    ``draft`` decodes large JPEGs at reduced size, in about half the time; their pixels differ a little. ``keep: all``
    gives the class token in front of the patches as well, on a grid of one row.
    """

    gives_final = True

    def __init__(
        self,
        *,
        model: str,
        pretrained: str | None = None,
        tag: str | None = None,
        quick_gelu: bool | None = None,
        layers: Sequence[int | Literal["final"]] = (-2,),
        fit: str = "squash",
        max_pixels: int = MAX_PIXELS,
        draft: bool = False,
        keep: Keep = "patches",
    ) -> None:
        super().__init__(layers=layers)
        check_fit(fit)
        self.visual: Any = load_visual(model, pretrained, tag, quick_gelu)
        config = PreprocessCfg(**self.visual.preprocess_cfg | {"resize_mode": RESIZE_MODES[fit]})
        patch, self.dim, self._prefix = tower_shape(self.visual, model)
        height, width = self.visual.image_size
        # open_clip's own inference transform with our `fit`
        transform = image_transform_v2(config, is_train=False)
        self.processor = ImageProcessor(
            transform,
            size=(height, width),
            patch=patch,
            max_pixels=max_pixels,
            draft=draft,
            prefix=kept(keep, self._prefix),
        )
        self.resolve(self.n_blocks)
        if "final" in self.layers and not _norms_patches(self.visual):
            raise MmllmError(f'layers: final: the tower of "{model}" has no norm for patches; name layer -1.')
        self.freeze()

    @property
    def blocks(self) -> Any:
        """The tower's list of transformer blocks (a view: registering it twice would store every weight twice)."""
        own = isinstance(self.visual, VisionTransformer)
        return self.visual.transformer.resblocks if own else self.visual.trunk.blocks

    @property
    def n_blocks(self) -> int:
        """Transformer blocks of the visual tower."""
        return len(self.blocks)

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches: one class token in open_clip's own tower, as declared in timm's."""
        return self._prefix

    def hidden(self, pixels: Tensor, wanted: Sequence[Layer]) -> list[Tensor]:
        """What enters the first and leaves the other blocks, and that after the tower's last norm."""
        own = isinstance(self.visual, VisionTransformer)
        seen: list[Tensor] = []

        def run() -> Tensor:
            self.visual(pixels)  # called as a module: ZeRO-3 gathers its weights then
            return seen[-1]

        # a hook, as the forward of both gives the pooled state alone
        last = self.visual.transformer if own else self.visual.trunk.norm
        handle = last.register_forward_hook(lambda _, __, output: seen.append(output))
        try:
            return recorded(self.blocks, wanted, run, self.visual.ln_post if own else None)
        finally:
            handle.remove()

    def hook_points(self) -> BlockHooks:
        """Return the tower's blocks; they may see the tokens first."""
        own = isinstance(self.visual, VisionTransformer)
        return BlockHooks(
            self.blocks, self.dim, self.scope, batch_first=self.visual.transformer.batch_first if own else True
        )


def load_visual(model: str, pretrained: str | None, tag: str | None = None, quick_gelu: bool | None = None) -> Any:
    """The visual tower with its weights and ``preprocess_cfg``; raises where open_clip would guess or warn."""
    local = pretrained is not None and pretrained.endswith(".safetensors") and Path(pretrained).is_file()
    if tag is not None and not local:
        raise MmllmError(f'tag: "{tag}" says what a .safetensors file under `pretrained` holds, and there is none.')
    if Path(model).is_dir():
        name, declared = _folder(Path(model), pretrained)
        return _load(name, None, _chosen(model, bool(declared), quick_gelu, fixed=declared is not None))
    if model.startswith("hf-hub:"):
        if quick_gelu is not None:
            raise MmllmError(f'quick_gelu: the configuration of "{model}" says which activation it has; leave it out.')
        return _load(model, None, quick_gelu=False)
    known = open_clip.list_models()
    if model not in known:
        near = difflib.get_close_matches(model, known, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else "; `open_clip.list_models()` lists the names."
        raise MmllmError(f'open_clip model "{model}" is neither a folder nor a model name of open_clip{hint}')
    if not local:
        return _load(model, pretrained, _chosen(model, needs_quick_gelu(model, pretrained), quick_gelu, fixed=True))
    training = of_file(model, tag, quick_gelu)
    declared = declares_quick_gelu(model)
    fixed = declared or tag not in (None, NO_TAG)
    quick = _chosen(model, declared or bool(training.quick_gelu), quick_gelu, fixed=fixed)
    return _load(model, pretrained, quick, training.pixels)


def _chosen(model: str, known: bool, asked: bool | None, *, fixed: bool) -> bool:
    """Whether QuickGELU is used; MmllmError where the recipe asks for another activation than is ``fixed``."""
    if asked is not None and fixed and asked != known:
        names = {True: "QuickGELU", False: "GELU"}
        raise MmllmError(
            f'quick_gelu: {str(asked).lower()}, but "{model}" with these weights has {names[known]}; leave it out.'
        )
    return known if asked is None else asked


def _folder(folder: Path, pretrained: str | None) -> tuple[str, bool | None]:
    """open_clip's name of a folder, once it holds what is needed; whether it says QuickGELU (None: says nothing)."""
    if pretrained is not None:
        raise MmllmError(f'pretrained: "{pretrained}" has no meaning beside the folder {folder}; leave it out.')
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        if not (folder / name).is_file():
            raise MmllmError(f"open_clip folder {folder} has no {name}.")
    try:
        config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
        declared = config.get("quick_gelu")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        file = folder / "open_clip_config.json"
        raise MmllmError(f"{file} is not a configuration of open_clip: {error!r}.") from error
    return f"local-dir:{folder}", declared


def _load(name: str, pretrained: str | None, quick_gelu: bool, pixels: dict[str, Any] | None = None) -> Any:
    """Load the whole CLIP strictly in float32, keep the visual tower; ``pixels``: words of its ``preprocess_cfg``."""
    try:
        words = {"force_quick_gelu": quick_gelu, "force_preprocess_cfg": pixels}
        if weightless():
            with no_weights_expected():
                clip = open_clip.create_model(name, load_weights=False, pretrained_text=False, device="meta", **words)
        else:
            clip = open_clip.create_model(name, pretrained, require_pretrained=True, **words)
    except (RuntimeError, ValueError, OSError, KeyError, TypeError, SafetensorError) as error:
        raise MmllmError(f'open_clip cannot load "{name}" with pretrained "{pretrained}": {error}') from error
    return clip.visual


def _norms_patches(visual: Any) -> bool:
    """Whether the tower's last norm is one for patches: CoCa's stands behind an attention pool, for its queries."""
    if isinstance(visual, VisionTransformer):
        return visual.attn_pool is None or visual.attn_pool_contrastive is not None
    return "norm" in dict(visual.trunk.named_children())


def tower_shape(visual: nn.Module, model: str) -> tuple[tuple[int, int], int, int]:
    """(patch size, width, prefix tokens) of the two transformer towers that open_clip builds."""
    if isinstance(visual, VisionTransformer):
        height, width = visual.patch_size
        # open_clip's own tower always has exactly its class_embedding in front.
        return (height, width), visual.conv1.out_channels, 1
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "blocks") and hasattr(visual.trunk, "num_prefix_tokens"):
        trunk = visual.trunk
        height, width = trunk.patch_embed.patch_size
        return (height, width), trunk.embed_dim, trunk.num_prefix_tokens
    raise MmllmError(
        f'open_clip model "{model}" has a {type(visual).__name__} tower without transformer blocks over patches; '
        "choose a ViT."
    )
