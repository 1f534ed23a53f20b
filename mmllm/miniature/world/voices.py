"""Speech-like sound made by a source and filters: random syllables of random speakers, each frame with its labels.

No recording enters: glottal pulses and noise pass formants that glide between random targets (Fant 1960).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

RATE = 16_000
FRAME = 80
"""Samples of one frame: 5 ms."""
PHONES = ("silence", "vowel", "glide", "nasal", "fricative", "voiced fricative", "closure", "burst", "breath")
_SHARP = 2
_FFT = 320

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Speaker:
    """A random voice."""

    tract: float
    """Formants are this many times those of an average speaker."""
    pitch: float
    """Mean pitch in Hz."""
    tilt: float
    """Fall of the voice's spectrum in dB per octave."""
    breath: float
    """Share of noise in voiced sound."""
    width: float
    """Formant bandwidths are this many times the usual ones."""
    jitter: float
    """Relative irregularity of pitch."""
    pace: float
    """Lengths of sounds are this many times the usual ones."""


@dataclass
class Track:
    """Sound of each of n frames: amplitudes float[n], Hz, and labels."""

    phone: NDArray[np.int64]
    """Index into PHONES."""
    plain: Floats
    """float[n, 3], formants in Hz as an average speaker would have them."""
    voice: Floats
    breath: Floats
    noise: Floats
    centre: Floats
    """Hz, middle of the band of friction."""
    spread: Floats
    """Width of that band in octaves."""
    pitch: Floats
    """Hz."""
    speaker: Speaker


@dataclass
class _Script:
    """Segments as they are decided, one row each."""

    rows: list[tuple[float, ...]] = field(default_factory=list)

    def add(
        self, phone: str, frames: float, formants: Floats, *, voice: float = 0.0, breath: float = 0.0,
        noise: float = 0.0, centre: float = 3000.0, spread: float = 0.7,
    ) -> None:  # fmt: skip
        self.rows.append((PHONES.index(phone), max(1, round(frames)), *formants, voice, breath, noise, centre, spread))


def speaker(rng: Generator) -> Speaker:
    """Tract length and pitch go together, loosely, as between people."""
    tract = float(rng.uniform(0.85, 1.25))
    pitch = float(np.clip(105 * tract**2.6 * np.exp(rng.normal(0.1, 0.22)), 70, 330))
    return Speaker(
        tract, pitch, float(rng.uniform(-10, -2)), float(rng.uniform(0.01, 0.25)), float(rng.uniform(0.8, 1.8)),
        float(rng.uniform(0.002, 0.03)), float(rng.uniform(0.55, 1.5)),
    )  # fmt: skip


def vowel(rng: Generator) -> Floats:
    """Formants of a random vowel in Hz: the higher F1, the narrower the range of F2."""
    height = rng.uniform(0, 1)
    f1 = 250 + 560 * height
    f2 = rng.uniform(700 + 350 * height, 2350 - 750 * height)
    f3 = rng.uniform(max(f2 + 250, 1600 if rng.random() < 0.25 else 2250), 3000)
    return np.array([f1, f2, f3], np.float32)


def _consonant(rng: Generator, script: _Script, near: Floats, pace: float, last: bool) -> None:
    kind = rng.choice(["fricative", "voiced fricative", "stop", "nasal", "glide"], p=[0.25, 0.12, 0.3, 0.16, 0.17])
    place = np.array([rng.uniform(220, 420), rng.uniform(700, 2300), rng.uniform(2000, 2900)], np.float32)
    long = pace * (1.4 if last else 1.0)
    centre, spread = float(np.exp(rng.uniform(np.log(1200), np.log(7000)))), float(rng.uniform(0.3, 1.6))
    if kind == "fricative":
        loud = float(10 ** rng.uniform(-1.7, -0.4))
        script.add(kind, rng.uniform(10, 30) * long, place, noise=loud, centre=centre, spread=spread)
    elif kind == "voiced fricative":
        loud = float(10 ** rng.uniform(-1.9, -0.8))
        hum = float(rng.uniform(0.1, 0.5))
        script.add(kind, rng.uniform(8, 18) * long, place, voice=hum, noise=loud, centre=centre, spread=spread)
    elif kind == "stop":
        buzz = float(rng.uniform(0.02, 0.12)) if rng.random() < 0.4 else 0.0
        script.add("closure", rng.uniform(6, 18) * long, place, voice=buzz)
        if not last or rng.random() < 0.7:
            loud = float(10 ** rng.uniform(-1.3, -0.3))
            script.add("burst", rng.uniform(1, 4), place, noise=loud, centre=centre, spread=spread + 0.5)
            if rng.random() < 0.6:
                script.add("breath", rng.uniform(2, 14), near, breath=float(rng.uniform(0.1, 0.5)))
    elif kind == "nasal":
        nose = np.array([rng.uniform(200, 330), rng.uniform(900, 2200), rng.uniform(2000, 2900)], np.float32)
        script.add("nasal", rng.uniform(8, 20) * long, nose, voice=float(rng.uniform(0.15, 0.5)))
    else:
        script.add("glide", rng.uniform(6, 16) * long, place, voice=float(rng.uniform(0.3, 0.8)))


def _syllable(rng: Generator, script: _Script, pace: float) -> None:
    start = vowel(rng)
    for _ in range(rng.choice([0, 1, 2], p=[0.15, 0.7, 0.15])):
        _consonant(rng, script, start, pace, last=False)
    loud, frames = float(rng.uniform(0.6, 1.0)), rng.uniform(14, 44) * pace
    whisper = rng.random() < 0.04
    sound = {"breath": loud / 2} if whisper else {"voice": loud}
    phone = "breath" if whisper else "vowel"
    if rng.random() < 0.45:  # a diphthong
        script.add(phone, frames / 2, start, **sound)
        script.add(phone, frames / 2, vowel(rng), **sound)
    else:
        script.add(phone, frames, start, **sound)
    for _ in range(rng.choice([0, 1, 2], p=[0.4, 0.5, 0.1])):
        _consonant(rng, script, start, pace, last=True)


def _smooth(values: NDArray[np.floating], frames: int) -> Floats:
    kernel = np.hanning(frames + 2)[1:-1]
    padded = np.pad(values, (frames // 2, frames - 1 - frames // 2), mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid").astype(np.float32)


def utter(rng: Generator, n: int) -> Track:
    """A few words of one to three random syllables by a random speaker, filling n frames; a pause after each."""
    who, script, spoken = speaker(rng), _Script(), 0
    rest = np.array([500, 1500, 2500], np.float32)
    while spoken < n:
        script.add("silence", rng.uniform(1, 40), rest)
        for _ in range(rng.choice([1, 2, 3], p=[0.55, 0.35, 0.1])):
            _syllable(rng, script, who.pace)
        spoken = int(sum(row[1] for row in script.rows))
    table = np.repeat(np.array(script.rows, np.float32), [int(row[1]) for row in script.rows], axis=0)[:n]
    glide = int(rng.integers(5, 16))
    formants = np.stack([_smooth(table[:, column], glide) for column in (2, 3, 4)], axis=1)
    voice, breath, noise = (_smooth(table[:, column], width) for column, width in ((5, 5), (6, 4), (7, _SHARP)))
    bend = np.linspace(rng.uniform(0.95, 1.3), rng.uniform(0.7, 1.1), n) + 0.03 * _smooth(rng.normal(size=n), 25)
    pitch = (who.pitch * bend).clip(60, 400).astype(np.float32)
    return Track(
        table[:, 0].astype(np.int64), formants, voice, breath + who.breath * voice, noise, table[:, 8], table[:, 9],
        pitch, who,
    )  # fmt: skip


def _pulses(rng: Generator, track: Track) -> Floats:
    """Glottal pulses of the track's pitch as impulses: float[n * FRAME], equal power at every pitch."""
    pitch = np.repeat(track.pitch * (1 + track.speaker.jitter * rng.normal(size=len(track.pitch))), FRAME)
    phase = np.cumsum(pitch / RATE)
    hits = np.diff(np.floor(phase), prepend=0.0) > 0
    return np.where(hits, np.sqrt(RATE / pitch), 0.0).astype(np.float32)


def _resonance(hz: Tensor, formant: Tensor, width: Tensor) -> Tensor:
    """Gain of one resonator with unit gain at 0 Hz: float[N, bins, frames] from bins and float[N, 1, frames]."""
    squared = formant**2
    return squared / torch.sqrt((squared - hz**2) ** 2 + (width * hz) ** 2)


def _formant_gain(hz: Tensor, formants: Tensor, tract: Tensor, width: Tensor) -> Tensor:
    """Gain of a vocal tract: three moving formants and two fixed ones, float[N, bins, frames]."""
    gain = torch.ones(())
    for index, usual in enumerate((60.0, 90.0, 140.0)):
        gain = gain * _resonance(hz, formants[:, None, :, index] * tract, usual * width)
    for fixed in (3500.0, 4500.0):
        gain = gain * _resonance(hz, fixed * tract, 250.0 * width)
    return gain


def render(rng: Generator, tracks: list[Track]) -> Tensor:
    """Tracks of n frames -> sound float[N, n * FRAME], loudest vowels near an RMS of 0.1."""

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(track, name) for track in tracks]).astype(np.float32))

    n = len(tracks[0].phone)
    window = torch.hann_window(_FFT)

    def spectrum(samples: Tensor) -> Tensor:
        return torch.stft(samples, _FFT, FRAME, window=window, return_complex=True)[..., :n]

    def of_speaker(name: str) -> Tensor:
        return torch.tensor([getattr(track.speaker, name) for track in tracks])[:, None, None]

    hz = torch.linspace(0, RATE / 2, _FFT // 2 + 1)[None, :, None]
    pulses = spectrum(torch.from_numpy(np.stack([_pulses(rng, track) for track in tracks])))
    hiss = spectrum(torch.from_numpy(rng.normal(size=(len(tracks), n * FRAME)).astype(np.float32)))
    tilt = 10 ** (of_speaker("tilt") / 20 * torch.log2((hz / 150).clamp(min=1)))
    tract = _formant_gain(hz, stacked("plain"), of_speaker("tract"), of_speaker("width"))
    octaves = torch.log2(hz.clamp(min=30)) - torch.log2(stacked("centre"))[:, None]
    band = torch.exp(-2 * (octaves / stacked("spread")[:, None]) ** 2)
    tract = tract * (hz / 500).clamp(0.1, 4)  # 6 dB per octave more is what the lips radiate
    # gains first: products of real numbers are cheaper
    out = pulses * (tilt * tract * stacked("voice")[:, None])
    out += hiss * (0.05 * tract * stacked("breath")[:, None] + 0.3 * band * stacked("noise")[:, None])
    length = n * FRAME
    samples = torch.istft(torch.nn.functional.pad(out, (0, 1)), _FFT, FRAME, window=window, length=length)
    return 0.1 * samples / samples.square().mean(1, keepdim=True).sqrt().clamp(min=1e-4)
