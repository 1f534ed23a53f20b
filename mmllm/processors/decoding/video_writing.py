"""Frames to the bytes of a small mp4 file (H.264): tiny media of the ``frames`` encoder, miniature clips."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy
from numpy.typing import NDArray

TICKS = 1000
"""Units of time in a second."""


def mp4(frames: Iterable[NDArray[numpy.uint8]], seconds: Sequence[float], quality: int = 18) -> bytes:
    """An mp4 file of frames uint8[H, W, 3] (H and W even) shown from those times on; the rate may vary.

    ``quality`` is x264's constant rate factor: 0 loses nothing but colour's resolution, 51 is worst.
    """
    import av

    out = io.BytesIO()
    # one thread: with another number of them x264 gives other bytes for the same frames. Nothing is decided by frames
    # ahead: where it is, that of PyAV 18.1 gives other bytes for the same small frames now and then
    ahead = {"bf": "0", "x264-params": "rc-lookahead=0:mbtree=0"}
    options = {"crf": str(quality), "preset": "veryfast", "threads": "1", **ahead}
    with av.open(out, "w", format="mp4") as container:
        stream = None
        for pixels, second in zip(frames, seconds, strict=True):
            if stream is None:
                # the encoder wants some rate; frames are shown at their own times
                stream = container.add_stream("libx264", rate=25, options=options)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = Fraction(1, TICKS)
            frame = av.VideoFrame.from_ndarray(numpy.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = round(second * TICKS), Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())
    return out.getvalue()
