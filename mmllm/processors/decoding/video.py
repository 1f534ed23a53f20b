"""Video files, as ``worker.py`` handles them: their packets are read once and listed before anything is decoded."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from mmllm.processors.decoding.bad_media import BadMedia

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif"
"""Containers that are opened. Playlists and scripts of FFmpeg, which name other files or addresses, are not."""
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
        self.packets = list(container.demux(stream))
        """All of them in order of decoding, their data included: what decodes them need not read the file again. The
        last one is empty; it asks the decoder for what it still holds."""
        packets = [packet for packet in self.packets if packet.size]
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
            (packet.pts, number)
            for number, packet in enumerate(self.packets)
            if packet.size and packet.is_keyframe and None not in (packet.pts, packet.dts)
        )
        """(presentation time, number in ``packets``) of each frame that decoding can start at."""
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


def quarter_turns(first: Any) -> int:
    """Turns by 90 degrees against the clock that bring frames upright, as the display matrix of the first one wants."""
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
