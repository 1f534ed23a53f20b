"""A sound from a path or bytes to mono float32 at a model's rate; called by the processor of audio encoders.

soundfile reads WAV, FLAC, OGG and MP3; what it cannot read (M4A, WebM, the sound of a video) is decoded by PyAV in a
process of its own.
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

from mmllm.errors import MediaError
from mmllm.processors.decoding.process import Workers
from mmllm.processors.decoding.sound import fault

if TYPE_CHECKING:
    from soundfile import SoundFile

MAX_SECONDS = 600.0
"""Default limit on the length of a sound, checked before anything is decoded."""
TIMEOUT = 30.0
"""Default seconds that decoding in a process of its own may take."""
WORKERS = Workers()

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Header:
    """Facts of a sound that are known without decoding it."""

    frames: int
    rate: int
    """Samples per second."""


def resampled_length(frames: int, rate: int, target: int) -> int:
    """Samples of a sound after resampling, at least 1: the same from a header as from the sound itself."""
    # whole numbers: a float's rounding would differ from the real length now and then
    return max(1, -(-frames * target // rate))


def sound_length(
    media: str | Path | bytes, target: int, max_seconds: float = MAX_SECONDS, timeout: float = TIMEOUT
) -> int:
    """Samples that ``read_sound`` will give; decodes only what has no trustworthy header (M4A, WebM).

    Raises:
        MediaError: as ``read_sound``, as far as a header shows it.
    """
    where = _place(media)
    with _opened(media) as source:
        if source is None:
            end, _ = _decoded(media, where, max_seconds, timeout, send=False)
            return resampled_length(end["samples"], end["rate"], target)
        header = _header(source, where, max_seconds)
    return resampled_length(header.frames, header.rate, target)


def read_sound(
    media: str | Path | bytes, target: int, max_seconds: float = MAX_SECONDS, timeout: float = TIMEOUT
) -> Samples:
    """float32[n] at ``target`` samples per second, all channels averaged; resampled by soxr at high quality.

    Raises:
        MediaError: the file is missing, empty, damaged, of another kind, longer than ``max_seconds`` (known from the
            header, before decoding), takes longer than ``timeout`` seconds or crashes its decoder (both where it is
            decoded in a process of its own), or holds samples that are not finite.
    """
    from soundfile import LibsndfileError

    where = _place(media)
    with _opened(media) as source:
        if source is None:
            end, pieces = _decoded(media, where, max_seconds, timeout)
            whole = np.frombuffer(b"".join(pieces), np.float32)
            return _resampled(whole, end["rate"], target, where)
        header = _header(source, where, max_seconds)
        try:
            samples = source.read(dtype="float32", always_2d=True)
        except LibsndfileError as error:
            raise MediaError(f"{where} is damaged: {error.error_string}") from error
    if len(samples) != header.frames:
        raise MediaError(f"{where} is damaged: {header.frames} samples are announced, {len(samples)} can be read.")
    return _resampled(samples.mean(axis=1), header.rate, target, where)


def _place(media: Any) -> str:
    """Name that errors call it by; MediaError where it is no file and no bytes."""
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
    if problem := fault(header.frames, header.rate, source.channels, max_seconds):
        raise MediaError(f"{where} {problem}.")
    return header


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


def _decoded(
    media: str | Path | bytes, where: str, max_seconds: float, timeout: float, send: bool = True
) -> tuple[dict[str, Any], list[bytes]]:
    """(``rate`` and number of ``samples``, pieces of mono float32) of a container's first sound stream."""
    data, path = (media, None) if isinstance(media, bytes) else (b"", str(Path(media).absolute()))
    request = {"modality": "audio", "path": path, "max_seconds": max_seconds, "send": send}
    return WORKERS.answer(where, request, data, timeout)
