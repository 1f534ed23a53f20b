"""A sound from a path or bytes to mono float32 at a model's rate; called by ``read`` and ``measure`` of audio encoders.

soundfile reads WAV, FLAC, OGG and MP3; what it cannot read (M4A, WebM, the sound of a video) goes through PyAV.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmllm.types import MediaError

if TYPE_CHECKING:
    from soundfile import SoundFile

MAX_SECONDS = 600.0
"""Default limit on the length of a sound, checked before anything is decoded."""
RATES = (1_000, 768_000)
"""Samples per second that a header may announce."""
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,flv,asf,mp3,aac,ogg,flac,wav,aiff,amr"
"""Containers that PyAV may open; playlists, which name other files, are not among them."""
MAX_CHANNELS = 64

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Header:
    """What is known of a sound without decoding it."""

    frames: int
    rate: int
    """Samples per second."""


def resampled_length(frames: int, rate: int, target: int) -> int:
    """Samples of a sound after resampling, at least 1: the same from a header as from the sound itself."""
    return max(1, -(-frames * target // rate))


def sound_length(media: str | Path | bytes, target: int, max_seconds: float = MAX_SECONDS) -> int:
    """Samples that ``read_sound`` will give; decodes only what has no trustworthy header (M4A, WebM).

    Raises:
        MediaError: as ``read_sound``, as far as a header shows it.
    """
    where = _place(media)
    with _opened(media) as source:
        if source is None:
            return len(_through_av(media, where, target, max_seconds))
        header = _header(source, where, max_seconds)
    return resampled_length(header.frames, header.rate, target)


def read_sound(media: str | Path | bytes, target: int, max_seconds: float = MAX_SECONDS) -> Samples:
    """float32[n] at ``target`` samples per second, all channels averaged; resampled by soxr at high quality.

    Raises:
        MediaError: the file is missing, empty, damaged, of another kind, longer than ``max_seconds`` (known from the
            header, before decoding), or holds samples that are not finite.
    """
    from soundfile import LibsndfileError

    where = _place(media)
    with _opened(media) as source:
        if source is None:
            return _through_av(media, where, target, max_seconds)
        header = _header(source, where, max_seconds)
        try:
            samples = source.read(dtype="float32", always_2d=True)
        except LibsndfileError as error:
            raise MediaError(f"{where} is damaged: {error.error_string}") from error
    if len(samples) != header.frames:
        raise MediaError(f"{where} is damaged: {header.frames} samples are announced, {len(samples)} can be read.")
    return _resampled(samples.mean(axis=1), header.rate, target, where)


def _place(media: Any) -> str:
    """What errors call it; MediaError where it is no file and no bytes."""
    if not isinstance(media, str | Path | bytes):
        raise MediaError(f"a sound must be a path or bytes, not {type(media).__name__}.")
    where = f"sound of {len(media)} bytes" if isinstance(media, bytes) else f"sound {media}"
    if not isinstance(media, bytes) and not Path(media).is_file():
        raise MediaError(f"{where} does not exist.")
    return where


@contextmanager
def _opened(media: str | Path | bytes) -> Iterator[SoundFile | None]:
    """The file opened by soundfile, or None where it cannot."""
    from soundfile import LibsndfileError, SoundFile

    data: Any = io.BytesIO(media) if isinstance(media, bytes) else _Nameless(Path(media).open("rb"))
    with data:
        try:
            source = SoundFile(data)
        except LibsndfileError:
            source = None
        if source is None:
            yield None
            return
        with source:
            yield source


class _Nameless(io.BufferedReader):
    """An open file without its name: soundfile would guess a format from the name's end."""

    def __init__(self, file: Any) -> None:
        super().__init__(file.detach())

    @property
    def name(self) -> str:
        """No name."""
        return ""


def _header(source: SoundFile, where: str, max_seconds: float) -> Header:
    header = Header(source.frames, source.samplerate)
    _check(where, header.frames, header.rate, source.channels, max_seconds)
    return header


def _check(where: str, frames: int, rate: int, channels: int, max_seconds: float) -> None:
    """The limits, on what a header says."""
    if not RATES[0] <= rate <= RATES[1]:
        raise MediaError(f"{where} has {rate} samples per second; {RATES[0]} to {RATES[1]} are read.")
    if not 1 <= channels <= MAX_CHANNELS:
        raise MediaError(f"{where} has {channels} channels; 1 to {MAX_CHANNELS} are read.")
    if frames < 1:
        raise MediaError(f"{where} holds no samples.")
    if frames > max_seconds * rate:
        raise MediaError(f"{where} lasts {frames / rate:.1f} seconds; at most {max_seconds:g} are read (max_seconds).")


def _resampled(samples: Samples, rate: int, target: int, where: str) -> Samples:
    """Mono samples at the target's rate, exactly as many as a header foretells."""
    import soxr

    if not np.isfinite(samples).all():
        raise MediaError(f"{where} holds samples that are not finite numbers.")
    length = resampled_length(len(samples), rate, target)
    if rate != target:
        samples = soxr.resample(samples, rate, target, quality="HQ")
    # the resampler rounds the length its own way, by at most one sample
    samples = np.pad(samples[:length], (0, max(0, length - len(samples))))
    return np.ascontiguousarray(samples, dtype=np.float32)


def _through_av(media: str | Path | bytes, where: str, target: int, max_seconds: float) -> Samples:
    """The first sound stream of a container, decoded until it ends or passes the limit."""
    import av

    data: Any = io.BytesIO(media) if isinstance(media, bytes) else Path(media).open("rb")
    parts: list[Samples] = []
    rate = 0
    with data:
        try:
            with av.open(data, options={"format_whitelist": CONTAINERS}, metadata_errors="replace") as container:
                if not container.streams.audio:
                    raise MediaError(f"{where} has no sound in it.")
                stream = container.streams.audio[0]
                if stream.codec_context is None:
                    raise MediaError(f"{where} is of a coding that cannot be decoded here, or damaged.")
                rate = int(stream.rate or 0)
                _check(where, 1, rate, stream.channels, max_seconds)
                if stream.duration is not None and stream.time_base is not None:
                    seconds = float(stream.duration * stream.time_base)
                    _check(where, max(1, round(seconds * rate)), rate, stream.channels, max_seconds)
                for part in _frames(container, rate):
                    parts.append(part)
                    if sum(map(len, parts)) > max_seconds * rate:
                        raise MediaError(f"{where} lasts more than {max_seconds:g} seconds, the limit (max_seconds).")
        except av.FFmpegError as error:
            raise MediaError(f"{where} cannot be read as sound: {error.strerror}.") from error
    if not sum(map(len, parts)):
        raise MediaError(f"{where} holds no samples.")
    return _resampled(np.concatenate(parts), rate, target, where)


def _frames(container: Any, rate: int) -> Iterator[Samples]:
    """Each decoded piece as mono float32[n]; a stream that changes its rate midway is brought to its first one."""
    import av

    convert = av.AudioResampler(format="fltp", rate=rate)
    for frame in container.decode(audio=0):
        for piece in convert.resample(frame):
            yield piece.to_ndarray().mean(axis=0)
    for piece in convert.resample(None):
        yield piece.to_ndarray().mean(axis=0)
