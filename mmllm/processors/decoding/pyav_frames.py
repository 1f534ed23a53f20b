"""Frames of a scanned video decoded by PyAV, from the packets that the scan has read; asked by ``worker.py``."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy

from mmllm.processors.decoding.bad_media import BadMedia
from mmllm.processors.decoding.video import Frames, Pixels, Scan


def with_pyav(frames: PyavFrames, turns: int) -> Frames:
    """Decoding with PyAV; where times allow it, from the last key frame before each frame asked for."""

    def shown(indices: Sequence[int]) -> Iterator[Pixels]:
        frames.leave_out_all_but(indices)
        for index in indices:
            frame = frames.at(index)
            if frame.is_corrupt:
                raise BadMedia(f"is damaged at frame {index + 1}")
            yield numpy.rot90(rgb(frame), turns)

    return shown


def rgb(frame: Any) -> Pixels:
    """uint8[H, W, 3] of PyAV's frame, converted as decord does: each pixel takes the nearest chroma, whole frames.

    FFmpeg would convert the fields of an interlaced frame apart, so such a frame is copied as if it were not. What
    still differs between the backends is chroma in every second line of 10-bit 4:2:0 files (1.1 of 255 on average in
    noise).
    """
    if frame.interlaced_frame:
        whole = type(frame).from_ndarray(frame.to_ndarray(), format=frame.format.name)
        whole.colorspace, whole.color_range = frame.colorspace, frame.color_range
        frame = whole
    pixels: Pixels = frame.to_ndarray(format="rgb24", interpolation="POINT", threads=1)
    return pixels


class PyavFrames:
    """Shown frames by their index, asked for in increasing order; decoded from the packets that a scan has read."""

    def __init__(self, scan: Scan) -> None:
        """Decode up to the first frame. BadMedia where there is none."""
        self.scan, self.codec = scan, scan.stream.codec_context
        self.wanted: frozenset[int] | None = None
        """Times of the frames that will be asked for, where others may be left out; None: all are decoded."""
        self.position = 0
        """Index of the next frame, or of one before it."""
        frames = self.decoded(0)
        first = next(frames, None)
        if first is None:
            raise BadMedia("holds no frame")
        self.first = first
        self.frames: Iterator[Any] = chain([first], frames)

    def leave_out_all_but(self, indices: Sequence[int]) -> None:
        """Only these will be asked for: no time is spent on others that no frame is predicted from.

        Of H.264 only, whose packets say so by themselves; elsewhere (the layers of HEVC) FFmpeg's guess can be wrong.
        """
        if self.scan.plain and self.codec.name == "h264":
            self.wanted = frozenset(self.scan.stamps[index] for index in indices)

    def decoded(self, number: int) -> Iterator[Any]:
        """PyAV's frames from this packet on, in order of time."""
        for packet in islice(self.scan.packets, number, None):
            kept = self.wanted is None or packet.pts in self.wanted
            self.codec.skip_frame = "DEFAULT" if kept else "NONREF"
            yield from packet.decode()

    def at(self, index: int) -> Any:
        """PyAV's frame; BadMedia where the container announced one that is not there."""
        found = self.by_time(index) if self.scan.plain else next(islice(self.frames, index - self.position, None), None)
        if found is None:
            raise BadMedia(f"has no frame {index + 1} of the {len(self.scan.stamps)} that its container announces")
        self.position = index + 1
        return found

    def by_time(self, index: int) -> Any:
        """The frame that has this index's time: after a jump to its key frame, else from the beginning."""
        wanted, keys = self.scan.stamps[index], self.scan.keys
        number = bisect_right(keys, wanted, key=lambda key: key[0]) - 1
        if number > 0 and self.position < index and keys[number][0] >= self.scan.stamps[self.position]:
            self.jump(keys[number][1])
        found = self.search(wanted)
        # some streams cannot be entered at each key frame, or lose their order with frames left out
        if found is None and keys:
            self.wanted = None
            self.jump(keys[0][1])
            found = self.search(wanted)
        return found

    def jump(self, number: int) -> None:
        """To the key frame of this packet."""
        self.codec.flush_buffers()
        self.frames = self.decoded(number)

    def search(self, wanted: int) -> Any:
        """The next frame with this time, None where only later ones follow."""
        frame = next((frame for frame in self.frames if frame.pts is None or frame.pts >= wanted), None)
        return frame if frame is not None and frame.pts == wanted else None
