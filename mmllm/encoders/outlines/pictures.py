"""Outlines of image encoders; ``outline.py`` chooses between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.encoders.outlines.record import Outline
from mmllm.vlms.families import family_of

if TYPE_CHECKING:
    from mmllm.processors.native.pixels import Edge, Order, Resample


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
    tiles: Sequence[int] | None = None,
    max_pixels: int | None = None,
) -> Outline:
    """Outline of ``HfNativeEncoder``, by the folder's configuration and image processor."""
    from mmllm.encoders.image.native.hf_native import native_processor, patching, tower_kind
    from mmllm.processors.image import MAX_PIXELS
    from mmllm.processors.native.processor import Limits

    vision = _vision_config(model)
    found = patching(model, vision, Limits(longest, least, most, merge))
    processor = native_processor(found, tiles, max_pixels or MAX_PIXELS)
    return Outline(processor, tower_kind(model, vision).width(vision), len(layers))


def hf_video(
    model: str,
    layers: Sequence[int | str] = (-2,),
    frames: int = 16,
    fps: float | None = 2.0,
    least: int | None = None,
    most: int | None = None,
    backend: str = "pyav",
    timeout: float = 30.0,
    max_pixels: int = 10_000_000,
    max_seconds: float = 3600.0,
) -> Outline:
    """Outline of ``HfVideoEncoder``, by the folder's configuration and video processor."""
    from mmllm.encoders.image.native.hf_native import tower_kind
    from mmllm.encoders.video.hf_video import clip_patching
    from mmllm.processors.native.clips import ClipProcessor
    from mmllm.processors.video import VideoReading

    vision = _vision_config(model)
    reading = VideoReading(
        frames=frames, fps=fps, backend=backend, timeout=timeout, max_pixels=max_pixels, max_seconds=max_seconds
    )
    processor = ClipProcessor(clip_patching(model, vision, least, most), reading)
    return Outline(processor, tower_kind(model, vision).width(vision), len(layers))


def _vision_config(model: str) -> Any:
    """Configuration of a folder's tower, which may be part of a published model."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    family = family_of(config)
    word = "vision_config" if family is None else family.tower_config
    return getattr(config, word) if word in config.sub_configs else config


def hf_sam(
    model: str,
    layers: Sequence[int | str] = ("final",),
    max_pixels: int | None = None,
    draft: bool = False,
) -> Outline:
    """Outline of ``HfSamEncoder``, by the folder's configuration and image processor."""
    from transformers import AutoConfig

    from mmllm.encoders.image.sam.hf_sam import sam_config, sam_dim, sam_processor
    from mmllm.processors.image import MAX_PIXELS

    config = AutoConfig.from_pretrained(model)
    tower = sam_config(model, config)
    processor = sam_processor(model, config, tower, layers, max_pixels or MAX_PIXELS, draft)
    return Outline(processor, sam_dim(config, tower, layers), len(layers))


def patches(
    patch: int = 30,
    longest: int | Sequence[int] | None = (1080, 1920),
    least: int | None = None,
    most: int | None = None,
    edge: Edge = "pad",
    fill: float = 1.0,
    order: Order = "row_col_channel",
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.5,),
    resample: Resample = "bilinear",
    max_pixels: int | None = None,
) -> Outline:
    """Outline of ``PatchesEncoder``, which has no weights."""
    from mmllm.encoders.image.patches import pixel_patching
    from mmllm.processors.image import MAX_PIXELS
    from mmllm.processors.native.processor import NativeProcessor

    found = pixel_patching(
        patch, longest, least, most, edge=edge, fill=fill, order=order, mean=mean, std=std, resample=resample
    )
    return Outline(NativeProcessor(found, max_pixels=max_pixels or MAX_PIXELS), found.channels, 1)


def mllama_vision(model: str, max_pixels: int | None = None) -> Outline | None:
    """Outline of ``MllamaVisionEncoder``, by the folder's configuration and image processor."""
    from transformers import AutoConfig, AutoImageProcessor

    from mmllm.processors.canvas import CanvasProcessor
    from mmllm.processors.image import MAX_PIXELS

    config = AutoConfig.from_pretrained(model)
    if config.model_type != "mllama":
        return None
    vision = config.vision_config
    processor = CanvasProcessor(
        AutoImageProcessor.from_pretrained(model),
        most=vision.max_num_tiles,
        tokens=(vision.image_size // vision.patch_size) ** 2 + 1,
        max_pixels=max_pixels or MAX_PIXELS,
    )
    return Outline(processor, vision.vision_output_dim, 1)


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
