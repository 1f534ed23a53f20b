"""Video files, as ``worker.py`` handles them: their packets are listed, frames decoded by PyAV or decord."""

from __future__ import annotations

import io
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy
from numpy.typing import NDArray

from mmllm.processors.decoding.bad_media import BadMedia

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg"
"""Containers that are opened. Playlists and scripts of FFmpeg, which name other files or addresses, are not."""
LAST = 32
"""Frames before the end of a clip: twice the most that H.264 keeps back to bring frames in order."""

Pixels = NDArray[numpy.uint8]
Frames = Callable[[Sequence[int]], Iterator[Pixels]]
"""Increasing indices of shown frames, none twice -> those frames, upright, uint8[H, W, 3]."""


class Scan:
    """Packets of the best video stream, read without decoding: one entry per shown frame, in order of time."""

    def __init__(self, container: Any) -> None:
        stream = container.streams.best("video")
        # the cover picture of a music file is a video stream too
        if stream is None or stream.disposition & type(stream.disposition).attached_pic:
            raise BadMedia("holds no video")
        packets = [packet for packet in container.demux(stream) if packet.size]
        self.stream = stream
        self.n_packets = len(packets)
        if not packets:
            raise BadMedia("holds no frame")
        # Containers of this family hold a table of all frames; others write guesses, or count those left out.
        if stream.frames > len(packets) and "mov" in container.format.name.split(","):
            raise BadMedia(f"says that it has {stream.frames} frames, but ends after {len(packets)}")
        shown = [packet for packet in packets if not packet.is_discard]
        stamps = [packet.dts if packet.pts is None else packet.pts for packet in shown]
        if None in stamps:
            raise BadMedia("has frames without a time")
        self.stamps = sorted(stamps)
        """Presentation time of each shown frame, in units of the stream's time base."""
        self.keys = sorted(
            (packet.pts, packet.dts)
            for packet in packets
            if packet.is_keyframe and None not in (packet.pts, packet.dts)
        )
        """(presentation, decoding) time of each frame that decoding can start at."""
        dated = all(packet.pts is not None for packet in shown)
        self.plain = dated and len(shown) == len(packets) and len(set(stamps)) == len(stamps)
        """Whether every packet is one shown frame with a time of its own, so a frame can be found by its time."""
        if not shown:
            raise BadMedia("holds no frame that is shown")

    def seconds(self) -> list[float]:
        """Time of each shown frame after the first one."""
        base, first = self.stream.time_base, self.stamps[0]
        return [float((stamp - first) * base) for stamp in self.stamps]


def check_limits(scan: Scan, seconds: Sequence[float], request: Mapping[str, Any]) -> None:
    """BadMedia where the clip is too large or too long."""
    width, height = scan.stream.codec_context.width, scan.stream.codec_context.height
    if not width * height or width * height > request["max_pixels"]:
        raise BadMedia(f"has frames of {width} x {height} pixels; 1 to {request['max_pixels']} pixels are read")
    if seconds[-1] > request["max_seconds"]:
        raise BadMedia(f"lasts {seconds[-1]:.1f} s; at most {request['max_seconds']:g} s are read")


def opened(request: Mapping[str, Any], data: bytes) -> Any:
    """PyAV's container of the file, whose ``with`` closes it; its best video stream is decoded by one thread."""
    import av

    av.logging.set_level(av.logging.PANIC)
    source = io.BytesIO(data) if request["path"] is None else request["path"]
    container = av.open(source, options={"format_whitelist": FORMATS, "protocol_whitelist": "file"})
    stream = container.streams.best("video")
    if stream is not None:
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    return container


def quarter_turns(request: Mapping[str, Any], data: bytes) -> int:
    """Turns by 90 degrees against the clock that bring a frame upright, as the file's display matrix wants it."""
    with opened(request, data) as container:
        first = next(decoded(container), None)
    if first is None:
        raise BadMedia("holds no frame")
    matrix = next((bytes(side) for side in first.side_data if side.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return 0
    # 3 x 3 whole numbers, of which a, b, c, d turn, stretch and mirror; a negative determinant mirrors
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    if first.rotation % 90 or a * d - b * c <= 0:
        raise BadMedia("is to be shown mirrored or turned by other than whole quarters, which is not supported")
    return int(first.rotation // 90 % 4)


def repeated(decode: Frames, indices: Sequence[int]) -> Iterator[Pixels]:
    """The frames of non-decreasing ``indices``, each decoded once."""
    frames = decode(sorted(set(indices)))
    last, frame = -1, None
    for index in indices:
        frame = next(frames, None) if index != last else frame
        if frame is None:
            raise BadMedia("ends before the frames that its container announces")
        last = index
        yield frame


def with_pyav(request: Mapping[str, Any], data: bytes, scan: Scan, turns: int) -> Frames:
    """Decoding with PyAV; where times allow it, from the last key frame before each frame asked for."""

    def shown(indices: Sequence[int]) -> Iterator[Pixels]:
        with opened(request, data) as container:
            frames = PyavFrames(container, scan)
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
    """Shown frames of an open container by their index, asked for in increasing order."""

    def __init__(self, container: Any, scan: Scan) -> None:
        self.container, self.scan = container, scan
        self.frames = decoded(container)
        self.position = 0
        """Index of the next frame, or of one before it."""

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
        if found is None and keys:  # some containers cannot be jumped in exactly
            self.jump(keys[0][1])
            found = self.search(wanted)
        return found

    def jump(self, stamp: int) -> None:
        """To the key frame with this decoding time."""
        self.container.seek(stamp, stream=self.container.streams.best("video"))
        self.frames = decoded(self.container)

    def search(self, wanted: int) -> Any:
        """The next frame with this time, None where only later ones follow."""
        frame = next((frame for frame in self.frames if frame.pts is None or frame.pts >= wanted), None)
        return frame if frame is not None and frame.pts == wanted else None


def decoded(container: Any) -> Iterator[Any]:
    """PyAV's frames of the best video stream from where the container stands."""
    frames: Iterator[Any] = container.decode(container.streams.best("video"))
    return frames


def with_decord(request: Mapping[str, Any], data: bytes, scan: Scan, turns: int) -> Frames:
    """Decoding with decord, which turns frames upright itself; one thread."""
    import decord

    def shown(indices: Sequence[int]) -> Iterator[Pixels]:
        source = io.BytesIO(data) if request["path"] is None else request["path"]
        reader = decord.VideoReader(source, ctx=decord.cpu(0), num_threads=1)
        # else its numbers are not those of our list, and other frames would be shown without a word
        if len(reader) != scan.n_packets:
            raise BadMedia(f"has {len(reader)} frames for decord, but {scan.n_packets} packets")
        starts = decord_starts(reader, scan)
        width, height = scan.stream.codec_context.width, scan.stream.codec_context.height
        position, frame = 0, None
        for index in indices:
            start = starts[bisect_right(starts, index) - 1]
            if start > position:
                reader.seek(start)
                position = start
            while position <= index:
                frame = reader.next()
                position += 1
            assert frame is not None
            pixels = frame.asnumpy()
            tall, wide = (width, height) if turns % 2 else (height, width)
            if pixels.shape[:2] != (tall, wide):
                raise BadMedia(f"has frames of {pixels.shape[1]} x {pixels.shape[0]} pixels where it announces others")
            # In narrow turned frames it takes the padding of a line for a fourth channel.
            yield pixels.reshape(tall, -1)[:, : 3 * wide].reshape(tall, wide, 3)

    return shown


def decord_starts(reader: Any, scan: Scan) -> list[int]:
    """Indices that decord can jump to and go on from in the right order; 0 is one of them.

    It numbers packets in the order of decoding and jumps by those numbers: to wrong frames where a key frame's number
    differs from its place in time (open groups of pictures, packets that are not shown). And from a key frame close to
    the end it loses the last frames, for which it gives others without a word; from ``LAST`` frames before it does not.
    """
    keys = [bisect_left(scan.stamps, stamp) for stamp, _ in scan.keys]
    if not scan.plain or keys != reader.get_key_indices():
        return [0]
    return [0, *(key for key in keys if 0 < key <= len(scan.stamps) - LAST)]
