"""What an encoder reads and how wide its states are, from its configuration alone: no weights are loaded.

``mmllm inspect`` shows with it what a model will see. A kind of encoder, or an argument, that is not known here has no
outline: the encoder itself is then made, weights and all.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmllm.encoders.outlines import others, pictures
from mmllm.encoders.outlines.record import Outline
from mmllm.errors import MmllmError


def outline(type: str, arguments: Mapping[str, Any]) -> Outline | None:
    """Return the outline of ``encoders.<key>: {type, <arguments>}``; None where it needs the encoder's weights.

    Raises:
        MmllmError: its files cannot be read, or an argument has a wrong value.
    """
    make = MAKERS.get(type)
    if make is None or not set(arguments) <= set(inspect.signature(make).parameters):
        return None
    try:
        return make(**arguments)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise MmllmError(f"the {type} encoder {arguments.get('model')!r} cannot be read: {reason}") from error
    except (AttributeError, RuntimeError, TypeError):
        # a model of another form than its kind has: the encoder's own loading says what is wrong with it
        return None


def _frames(
    image: Mapping[str, Any],
    frames: int = 8,
    fps: float | None = None,
    backend: str = "pyav",
    timeout: float = 30.0,
    max_pixels: int = 10_000_000,
    max_seconds: float = 3600.0,
    fit: str | None = None,
) -> Outline | None:
    from mmllm.encoders.video.frames import own_frames
    from mmllm.processors.image import ImageProcessor
    from mmllm.processors.video import VideoProcessor, VideoReading

    inner = outline(str(image["type"]), {name: value for name, value in image.items() if name != "type"})
    if inner is None or not isinstance(inner.processor, ImageProcessor):
        return None
    reading = VideoReading(
        frames=frames, fps=fps, backend=backend, timeout=timeout, max_pixels=max_pixels, max_seconds=max_seconds
    )
    own = None if fit is None else own_frames(fit, image, inner.processor.size)
    processor = VideoProcessor(inner.processor, reading, frames=frames, fps=fps, own=own)
    return Outline(processor, inner.dim, inner.n_layers)


def _tiles(
    image: Mapping[str, Any],
    rule: str = "closest_ratio",
    least: int = 1,
    most: int = 12,
    longest: int | None = None,
    resolutions: Sequence[Sequence[int]] | None = None,
    several: str = "cut",
    shortest: int | None = None,
    ratio: float | None = None,
) -> Outline | None:
    from mmllm.processors.image import ImageProcessor
    from mmllm.processors.tiles import TilesProcessor

    inner = outline(str(image["type"]), {name: value for name, value in image.items() if name != "type"})
    if inner is None or not isinstance(inner.processor, ImageProcessor):
        return None
    processor = TilesProcessor(
        inner.processor,
        rule=rule,
        least=least,
        most=most,
        longest=longest,
        resolutions=resolutions,
        several=several,
        shortest=shortest,
        ratio=ratio,
    )
    return Outline(processor, inner.dim, inner.n_layers)


MAKERS: Mapping[str, Callable[..., Outline | None]] = {
    "hf_vision": pictures.hf_vision,
    "hf_native": pictures.hf_native,
    "hf_video": pictures.hf_video,
    "hf_sam": pictures.hf_sam,
    "patches": pictures.patches,
    "mllama_vision": pictures.mllama_vision,
    "open_clip": pictures.open_clip,
    "hf_audio": others.hf_audio,
    "waveform": others.waveform,
    "frames": _frames,
    "tiles": _tiles,
    "document": others.document,
    "text_graph": others.text_graph,
    "points": others.points,
}
"""Type of an encoder -> what makes its outline of its arguments."""
