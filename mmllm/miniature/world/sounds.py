"""The sounds of the miniature world, synthesised: eight named ones in six manners, and tones, chirps and noises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from mmllm.miniature.world.words import PITCHES, SOUNDS, TIMES

RATE = 16_000
SLOT = RATE // 2
"""Samples of one of the eight times of a clip: half a second; a clip lasts 4 seconds."""
OTHERS = ("tone", "chirp", "noise", "stack")
EVENTS = (*SOUNDS, *OTHERS)

Samples = NDArray[np.float32]


def _time(n: int) -> NDArray[np.float64]:
    return np.arange(n) / RATE


def _band(rng: Generator, n: int, low: float, high: float) -> NDArray[np.float64]:
    """Noise between two frequencies in Hz with an RMS of 1."""
    sos = butter(2, [low, min(high, 0.49 * RATE)], "bandpass", fs=RATE, output="sos")
    # the filter's first samples, until it has settled, are left out
    noise = sosfilt(sos, rng.normal(size=n + 400))[400:]
    return noise / (np.sqrt(np.mean(noise**2)) + 1e-9)


def _phase(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    return 2 * np.pi * np.cumsum(hz) / RATE


def _bell(rng: Generator, n: int, f: float) -> NDArray[np.float64]:
    t, out = _time(n), np.zeros(n)
    for ratio, loud in ((1.0, 1.0), (2.76, 0.6), (5.4, 0.3), (8.9, 0.15)):
        out += loud * np.sin(2 * np.pi * 620 * f * ratio * t + rng.uniform(0, 6)) * np.exp(-t * (6 + 3 * ratio))
    return out


def _dog(rng: Generator, n: int, f: float) -> NDArray[np.float64]:
    t = np.linspace(0, 2, n, endpoint=False) % 1  # two barks
    hz = 330 * f * (1.25 - 0.6 * t)
    phase, out = _phase(hz), np.zeros(n)
    for k in range(1, 12):
        near = np.exp(-0.5 * ((k * hz - 1100 * f) / 450) ** 2)
        out += (0.15 / k + near) * np.sin(k * phase)
    return (out + 0.4 * _band(rng, n, 600 * f, 2400 * f)) * np.sin(np.pi * t) ** 0.7 * (t < 0.75)


def _rain(rng: Generator, n: int, f: float) -> NDArray[np.float64]:
    drops = np.where(rng.random(n) < 0.012, rng.exponential(1.0, n), 0.0)
    sos = butter(2, [1400 * f, min(4800 * f, 7800)], "bandpass", fs=RATE, output="sos")
    return 6 * sosfilt(sos, drops) + 0.15 * _band(rng, n, 1400 * f, 5000 * f)


def _horn(rng: Generator, n: int, f: float) -> NDArray[np.float64]:
    phase = _phase(np.full(n, 392.0 * f))
    return sum(np.sin(k * phase) / k**0.7 for k in range(1, 9)) * np.ones(n)


def _bird(rng: Generator, n: int, f: float) -> NDArray[np.float64]:
    t = (np.linspace(0, 3, n, endpoint=False)) % 1  # three whistles
    return np.sin(_phase(2300 * f * (1 + 0.45 * np.sin(2 * np.pi * t)))) * np.sin(np.pi * t)


def _drum(rng: Generator, n: int, f: float) -> NDArray[np.float64]:
    t = _time(n)
    hit = np.sin(_phase(120 * f * (1 + 0.8 * np.exp(-t * 40)))) * np.exp(-t * 9)
    return 1.6 * hit + 0.5 * _band(rng, n, 200 * f, 1500 * f) * np.exp(-t * 60)


def _door(rng: Generator, n: int, f: float) -> NDArray[np.float64]:
    t = np.linspace(0, 4, n, endpoint=False)  # a creak of rising ticks
    ticks = np.diff(np.floor(_phase(np.linspace(28, 75, n) * f) / (2 * np.pi)), prepend=0.0) > 0
    sos = butter(2, [500 * f, 1500 * f], "bandpass", fs=RATE, output="sos")
    return 8 * sosfilt(sos, np.where(ticks, 1.0, 0.0)) * (1 - 0.15 * t)


def _wind(rng: Generator, n: int, f: float) -> NDArray[np.float64]:
    swell = 1 + 0.6 * np.sin(2 * np.pi * (2.2 * _time(n) + rng.random()))
    return _band(rng, n, 160 * f, 620 * f) * swell


def _tone(rng: Generator, n: int, f: float) -> NDArray[np.float64]:
    return np.sin(_phase(np.full(n, float(np.exp(rng.uniform(np.log(120), np.log(6000)))))))


def _chirp(rng: Generator, n: int, f: float) -> NDArray[np.float64]:
    ends = np.exp(rng.uniform(np.log(150), np.log(6000), 2))
    return np.sin(_phase(np.geomspace(ends[0], ends[1], n)))


def _noise(rng: Generator, n: int, f: float) -> NDArray[np.float64]:
    low = float(np.exp(rng.uniform(np.log(80), np.log(4000))))
    return _band(rng, n, low, low * float(rng.uniform(1.3, 4)))


def _stack(rng: Generator, n: int, f: float) -> NDArray[np.float64]:
    phase, out = _phase(np.full(n, float(rng.uniform(90, 700)))), np.zeros(n)
    for k in range(1, 11):
        out += rng.exponential() / k * np.sin(k * phase + rng.uniform(0, 6))
    return out


MAKE: dict[str, Callable[[Generator, int, float], NDArray[np.float64]]] = dict(
    zip(
        EVENTS,
        (_bell, _dog, _rain, _horn, _bird, _drum, _door, _wind, _tone, _chirp, _noise, _stack),
        strict=True,
    )
)


def event(rng: Generator, name: str, manner: str | None = None) -> Samples:
    """One sound in one of PITCHES (None: in the middle of all of them): at most SLOT samples, RMS near 0.05.

    low and high: every frequency a third down or half up; loud and soft: 10 dB up, 12 dB down; short and long: a third
    or nine tenths of the slot instead of the half.
    """
    share = {"short": 0.3, "long": 0.92}.get(manner or "", 0.55) * rng.uniform(0.93, 1.05)
    f = {"low": 0.66, "high": 1.5}.get(manner or "", 1.0) * np.exp(rng.normal(0, 0.03))
    decibel = {"loud": 10.0, "soft": -12.0}.get(manner or "", 0.0) + rng.normal(0, 0.8)
    n = int(share * SLOT)
    sound = MAKE[name](rng, n, float(f))
    # 5 ms in and out, or its ends would click
    ramp = np.minimum(1, np.arange(n) / 80)
    sound = sound * ramp * ramp[::-1]
    return (0.05 * 10 ** (decibel / 20) * sound / (np.sqrt(np.mean(sound**2)) + 1e-9)).astype(np.float32)


def fact_held_out(time: str, manner: str, sound: str) -> bool:
    """One (time, manner, sound) of eight belongs to the test split; each pair of them stays known."""
    return (PITCHES.index(manner) + 3 * SOUNDS.index(sound) + 5 * TIMES.index(time)) % 8 == 0


def clip(rng: Generator, facts: tuple[tuple[str, str, str], ...]) -> Samples:
    """A clip of 4 seconds with these (time, manner, sound), each in its slot, over faint noise: float[8 * SLOT]."""
    out = rng.normal(0, 10 ** rng.uniform(-4.5, -3.5), len(TIMES) * SLOT)
    for time, manner, name in facts:
        start = TIMES.index(time) * SLOT + int(rng.uniform(0.01, 0.06) * SLOT)
        sound = event(rng, name, manner)[: (TIMES.index(time) + 1) * SLOT - start]
        out[start : start + len(sound)] += sound
    return out.clip(-1, 1).astype(np.float32)
