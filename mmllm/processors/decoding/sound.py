"""Sound that soundfile cannot read (M4A, WebM, a video's), as ``worker.py`` handles it: PyAV decodes it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmllm.processors.decoding.bad_media import BadMedia

CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,flv,asf,mp3,aac,ogg,flac,wav,aiff,amr"
"""Containers that are opened; playlists, which name other files, are not among them."""
RATES = (1_000, 768_000)
"""Samples per second that a header may announce."""
MAX_CHANNELS = 64
"""Channels that a header may announce, those of ambisonics of the 7th order: all are decoded before they are averaged,
so a damaged header would ask for any amount of memory."""


def fault(frames: int, rate: int, channels: int, max_seconds: float) -> str | None:
    """Fault of a header that is over the limits, as the end of a sentence about the file; None: it has none."""
    if not RATES[0] <= rate <= RATES[1]:
        return f"has {rate} samples per second; {RATES[0]} to {RATES[1]} are read"
    if not 1 <= channels <= MAX_CHANNELS:
        return f"has {channels} channels; 1 to {MAX_CHANNELS} are read"
    if frames < 1:
        return "holds no samples"
    if frames > max_seconds * rate:
        return f"lasts {frames / rate:.1f} seconds; at most {max_seconds:g} are read (max_seconds)"
    return None


def sounds(request: Mapping[str, Any], data: bytes, end: dict[str, Any]) -> Iterator[NDArray[np.float32]]:
    """Pieces float32[n], mono, of the first sound stream of ``path`` (null: of ``data``), up to ``max_seconds``.

    Puts ``rate`` and the number of ``samples`` into ``end``. BadMedia where there is no sound or it is over a limit.
    """
    import av

    av.logging.set_level(av.logging.PANIC)
    limit = request["max_seconds"]
    source = io.BytesIO(data) if request["path"] is None else request["path"]
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    end["samples"] = 0
    # tags in another coding than UTF-8 are no reason to refuse a sound
    with av.open(source, options=options, metadata_errors="replace") as container:
        if not container.streams.audio:
            raise BadMedia("has no sound in it")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise BadMedia("is of a coding that cannot be decoded here, or damaged")
        rate = end["rate"] = int(stream.rate or 0)
        announced = 1
        if stream.duration is not None and stream.time_base is not None:
            announced = max(1, round(float(stream.duration * stream.time_base) * rate))
        if problem := fault(announced, rate, stream.channels, limit):
            raise BadMedia(problem)
        for piece in mono(container, rate):
            end["samples"] += len(piece)
            if end["samples"] > limit * rate:
                raise BadMedia(f"lasts more than {limit:g} seconds, the limit (max_seconds)")
            yield piece
    if not end["samples"]:
        raise BadMedia("holds no samples")


def mono(container: Any, rate: int) -> Iterator[NDArray[np.float32]]:
    """Each decoded piece as mono float32[n]; a stream that changes its rate midway is brought to its first one."""
    import av

    convert = av.AudioResampler(format="fltp", rate=rate)
    for frame in container.decode(audio=0):
        for piece in convert.resample(frame):
            yield piece.to_ndarray().mean(axis=0)
    # what the resampler still holds
    for piece in convert.resample(None):
        yield piece.to_ndarray().mean(axis=0)
