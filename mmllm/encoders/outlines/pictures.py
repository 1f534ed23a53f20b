"""Outlines of image encoders; ``outline.py`` chooses between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmllm.encoders.outlines.record import Outline
from mmllm.vlms.families import family_of


def hf_vision(
    model: str,
    layers: Sequence[int | str] = (-2,),
    fit: str = "squash",
    image_size: int | None = None,
    max_pixels: int | None = None,
    draft: bool = False,
) -> Outline | None:
    """Outline of ``HfVisionEncoder``, by the folder's configuration and image processor."""
    from transformers import AutoConfig, AutoImageProcessor

    from mmllm.encoders.image.hf_vision import processed_size, sides
    from mmllm.processors.image import MAX_PIXELS, HfTransform, ImageProcessor, check_fit

    check_fit(fit, own=True)
    config = AutoConfig.from_pretrained(model)
    if family_of(config) is not None:  # a published VLM: its tower and its view of a picture are found as they load
        return None
    vision = config.vision_config if "vision_config" in config.sub_configs else config
    if not {"patch_size", "hidden_size"} <= vision.to_dict().keys():
        return None
    own = AutoImageProcessor.from_pretrained(model)
    if fit == "own":
        size = sides(vision.image_size)
    else:
        size = processed_size(own) if image_size is None else (image_size, image_size)
    transform = HfTransform(own, size, fit, own_size=image_size is None)
    processor = ImageProcessor(
        transform, size=size, patch=sides(vision.patch_size), max_pixels=max_pixels or MAX_PIXELS, draft=draft
    )
    return Outline(processor, vision.hidden_size, len(layers))


def hf_native(
    model: str,
    layers: Sequence[int | str] = (-2,),
    longest: int | None = None,
    least: int | None = None,
    most: int | None = None,
    merge: int = 1,
    max_pixels: int | None = None,
) -> Outline:
    """Outline of ``HfNativeEncoder``, by the folder's configuration and image processor."""
    from transformers import AutoConfig

    from mmllm.encoders.image.native.hf_native import patching
    from mmllm.processors.image import MAX_PIXELS
    from mmllm.processors.native.processor import Limits, NativeProcessor

    config = AutoConfig.from_pretrained(model)
    family = family_of(config)
    word = "vision_config" if family is None else family.tower_config
    vision = getattr(config, word) if word in config.sub_configs else config
    found = patching(model, vision, Limits(longest, least, most, merge))
    return Outline(NativeProcessor(found, max_pixels=max_pixels or MAX_PIXELS), vision.hidden_size, len(layers))


def open_clip(
    model: str,
    pretrained: str | None = None,
    tag: str | None = None,
    quick_gelu: bool | None = None,
    layers: Sequence[int | str] = (-2,),
    fit: str = "squash",
    max_pixels: int | None = None,
    draft: bool = False,
) -> Outline | None:
    """Outline of ``OpenClipEncoder``: its tower is laid out on torch's meta device, which holds no numbers."""
    import open_clip
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from mmllm.encoders.image.open_clip import RESIZE_MODES, tower_shape
    from mmllm.encoders.image.open_clip_weights import no_weights_expected
    from mmllm.processors.image import MAX_PIXELS, ImageProcessor, check_fit

    check_fit(fit)
    folder = Path(model).is_dir()
    published = None if folder or pretrained is None else open_clip.get_pretrained_cfg(model, pretrained)
    # a file of weights, a model of the hub, a folder that lacks something: the encoder's own loading says what they are
    plain = folder and pretrained is None and (Path(model) / "open_clip_config.json").is_file()
    if tag is not None or quick_gelu is not None or not (published or plain):
        return None
    with torch.device("meta"), no_weights_expected():
        clip: Any = open_clip.create_model(
            f"local-dir:{model}" if folder else model, load_weights=False, pretrained_text=False, device="meta"
        )
    patch, width, _ = tower_shape(clip.visual, model)
    known = {name for name in PreprocessCfg.__dataclass_fields__ if published and name in published}
    settings = clip.visual.preprocess_cfg | {name: (published or {})[name] for name in known}
    config = PreprocessCfg(**settings | {"resize_mode": RESIZE_MODES[fit]})
    height, across = clip.visual.image_size
    processor = ImageProcessor(
        image_transform_v2(config, is_train=False),
        size=(height, across),
        patch=patch,
        max_pixels=max_pixels or MAX_PIXELS,
        draft=draft,
    )
    return Outline(processor, width, len(layers))
