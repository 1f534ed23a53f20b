"""Small films for tests of video reading, made on the spot, and readers with both decoders under the same limits."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from mmllm.processors.video import Clip, VideoReading

LIMITS: dict[str, Any] = {
    "frames": 8, "fps": None, "timeout": 20.0, "max_pixels": 4_000_000, "max_seconds": 600.0,
}  # fmt: skip
BACKENDS = ("decord", "pyav")
FOLDER = os.environ.get("MMLLM_TEST_DATA")
real = pytest.mark.skipif(FOLDER is None, reason="MMLLM_TEST_DATA names no folder of real files")


def by_backend() -> Iterator[dict[str, VideoReading]]:
    """A fixture's body: backend -> its reader, with a worker each."""
    readings = {backend: VideoReading(backend=backend, **LIMITS) for backend in BACKENDS}
    yield readings
    for one in readings.values():
        one.close()


def grey(count: int, side: int = 32) -> list[np.ndarray]:
    """Frame i is grey of 20 i + 20."""
    return [np.full((side, side, 3), 20 * number + 20, np.uint8) for number in range(count)]


def shown(clip: Clip) -> list[int]:
    """Which of ``grey`` each frame is."""
    return [round((float(frame.mean()) - 20) / 20) for frame in clip.frames]


def film(count: int = 12, size: tuple[int, int] = (48, 64), **kind: Any) -> bytes:
    """A clip of moving noise, written with the codec, pixel format, container and options asked for."""
    out, noise = io.BytesIO(), np.random.default_rng(0)
    with av.open(out, "w", format=kind.get("container", "mp4")) as container:
        stream = container.add_stream(kind.get("codec", "libx264"), rate=10, options=kind.get("options", {}))
        stream.height, stream.width = size
        stream.pix_fmt = kind.get("pixels", "yuv420p")
        if "turned" in kind:
            stream.set_display_rotation(kind["turned"])
        for number in range(count):
            picture = np.full((*size, 3), (10 * number % 256, 40, 200), np.uint8)
            picture[: size[0] // 2, : size[1] // 3] = noise.integers(0, 256, (size[0] // 2, size[1] // 3, 3))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()
