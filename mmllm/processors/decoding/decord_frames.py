"""Frames of a scanned video decoded by decord, which reads the file itself; asked by ``worker.py``."""

from __future__ import annotations

import io
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmllm.processors.decoding.bad_media import BadMedia
from mmllm.processors.decoding.video import Frames, Pixels, Scan

LAST = 32
"""Frames before the end of a clip: twice the most that H.264 keeps back to bring frames in order."""


def with_decord(request: Mapping[str, Any], data: bytes, scan: Scan, turns: int) -> Frames:
    """Decoding with decord, which turns frames upright itself; one thread."""
    import decord

    def shown(indices: Sequence[int]) -> Iterator[Pixels]:
        scan.packets.clear()  # it reads the file itself
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
            if scan.plain:
                pass_over(reader, position, index)
                position = index
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


def pass_over(reader: Any, position: int, index: int) -> None:
    """Bring decord from frame ``position`` to ``index`` without converting those between.

    Over a key frame it goes by reading the frame before: ``skip_frames`` would jump to the key frame's number, right or
    wrong (``decord_starts``). It finds frames by their times, so no two may have the same.
    """
    keys = reader.get_key_indices()
    while position < index:
        number = bisect_right(keys, position)
        end = min(index, keys[number] - 1 if number < len(keys) else index)
        if end > position:
            reader.skip_frames(end - position)
        else:
            end = position + 1
            reader.next()
        position = end


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
