"""Training sound of the miniature audio encoder with what is known of each of its tokens: labels for supervision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, sosfilt
from torch import Tensor

from mmllm.miniature.world.sounds import EVENTS, OTHERS, event
from mmllm.miniature.world.voices import FRAME, PHONES, RATE, Track, render, utter
from mmllm.miniature.world.words import PITCHES, SOUNDS

SECONDS = 2
TOKENS = 100
"""Tokens of one window: one for 20 ms."""
_PER_TOKEN = RATE * SECONDS // TOKENS
_FRAMES = RATE * SECONDS // FRAME
LABELS: dict[str, int] = {
    "phone": len(PHONES), "f1": 11, "f2": 13, "f3": 7, "f2 moves": 4, "pitch": 15, "friction": 9,
    "event": 1 + len(EVENTS), "manner": 2 + len(PITCHES),
}  # fmt: skip
"""Number of classes of each label; class 0 is "nothing of the sort"."""
COLUMN = {name: index for index, name in enumerate(LABELS)}


@dataclass(frozen=True)
class Lesson:
    """n windows of sound: samples float[n, 2 s], labels int64[n, TOKENS, len(LABELS)]."""

    samples: Tensor
    labels: Tensor


def _bins(values: NDArray[np.float32], low: float, high: float, count: int) -> NDArray[np.int64]:
    """1 .. count by equal steps of the logarithm."""
    place = (np.log(values) - np.log(low)) / (np.log(high) - np.log(low)) * count
    return 1 + place.astype(np.int64).clip(0, count - 1)


def track_labels(track: Track) -> NDArray[np.int64]:
    """Labels of each token of a speech-like window: formants as an average speaker would have them."""
    middle = np.arange(TOKENS) * (_FRAMES // TOKENS) + _FRAMES // TOKENS // 2
    labels = np.zeros((TOKENS, len(LABELS)), np.int64)
    phone = track.phone[middle]
    name = np.array(PHONES)[phone]
    resonant = np.isin(name, ("vowel", "glide", "nasal", "breath"))
    voiced = np.isin(name, ("vowel", "glide", "nasal", "voiced fricative"))
    noisy = np.isin(name, ("fricative", "voiced fricative", "burst"))
    plain = track.plain[middle]
    move = np.log(track.plain[np.minimum(middle + 4, _FRAMES - 1), 1] / track.plain[middle - 2, 1])
    labels[:, COLUMN["phone"]] = phone
    labels[:, COLUMN["f1"]] = resonant * _bins(plain[:, 0], 230, 840, 10)
    labels[:, COLUMN["f2"]] = resonant * _bins(plain[:, 1], 680, 2400, 12)
    labels[:, COLUMN["f3"]] = resonant * _bins(plain[:, 2], 1600, 3000, 6)
    labels[:, COLUMN["f2 moves"]] = resonant * (2 + np.sign(move) * (np.abs(move) > 0.05)).astype(np.int64)
    labels[:, COLUMN["pitch"]] = voiced * _bins(track.pitch[middle], 65, 380, 14)
    labels[:, COLUMN["friction"]] = noisy * _bins(track.centre[middle], 1200, 7000, 8)
    return labels


def _event_window(rng: Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A window of sounds with pauses between them."""
    samples, labels = np.zeros(RATE * SECONDS, np.float32), np.zeros((TOKENS, len(LABELS)), np.int64)
    at = int(rng.uniform(0, 0.4 * RATE))
    while at < len(samples) - 2000:
        name = str(rng.choice(OTHERS if rng.random() < 0.25 else SOUNDS))
        manner = None if name in OTHERS else str(rng.choice(PITCHES))
        sound = event(rng, name, manner)[: len(samples) - at]
        samples[at : at + len(sound)] += sound
        where = slice(at // _PER_TOKEN, (at + len(sound)) // _PER_TOKEN)
        labels[where, COLUMN["event"]] = 1 + EVENTS.index(name)
        labels[where, COLUMN["manner"]] = 1 if manner is None else 2 + PITCHES.index(manner)
        at += len(sound) + int(rng.uniform(0, 0.5 * RATE))
    return samples, labels


def _room(rng: Generator, sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Echo, the limits of a telephone, a microphone's slope, level: what stands between a mouth and a file."""
    if rng.random() < 0.4:
        tail = rng.normal(size=int(rng.uniform(0.03, 0.25) * RATE))
        # falls by 60 dB (6.9 is the logarithm of 1000), by which the length of an echo is told
        tail = tail * np.exp(-np.linspace(0, 6.9, len(tail))) * rng.uniform(0.01, 0.08)
        tail[0] = 1.0
        sound = fftconvolve(sound, tail)[: len(sound)].astype(np.float32)
    if rng.random() < 0.3:
        low = butter(1, rng.uniform(60, 350), "highpass", fs=RATE, output="sos")
        sound = sosfilt(low, sound).astype(np.float32)
    if rng.random() < 0.3:
        slope = butter(1, rng.uniform(800, 4000), "lowpass", fs=RATE, output="sos")
        sound = sosfilt(slope, sound).astype(np.float32)
    level = np.sqrt(np.mean(sound**2)) + 1e-6
    hiss = rng.normal(size=len(sound)) * level * 10 ** (-rng.uniform(8, 60) / 20)
    if rng.random() < 0.5:
        hiss = 3 * sosfilt(butter(1, rng.uniform(100, 1000), "lowpass", fs=RATE, output="sos"), hiss)
    sound = sound + hiss.astype(np.float32)
    if rng.random() < 0.55:
        # what a recording of 8000 samples a second leaves
        sound = sosfilt(butter(8, rng.uniform(3300, 3990), "lowpass", fs=RATE, output="sos"), sound)
    return np.asarray(sound, np.float32)


def _cut(rng: Generator, sound: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """Half of the windows end early and are zero from there, as a feature extractor pads a short file."""
    if rng.random() < 0.5:
        end = int(rng.uniform(0.12, 0.95) * TOKENS)
        sound[end * _PER_TOKEN :] = 0
        labels[end:] = 0


def lesson(seed: int, step: int, n: int, events: float = 0.2) -> Lesson:
    """The windows of one step, a pure function of seed and step; a share holds sounds, the others speech."""
    rng = np.random.default_rng((seed, step))
    n_events = round(n * events)
    tracks = [utter(rng, _FRAMES) for _ in range(n - n_events)]
    made: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []
    if tracks:
        spoken = render(rng, tracks).numpy()
        made = [
            (_room(rng, sound) * np.float32(10 ** rng.uniform(-1.3, 0.5)), track_labels(track))
            for sound, track in zip(spoken, tracks, strict=True)
        ]
    for _ in range(n_events):
        sound, labels = _event_window(rng)
        hiss = rng.normal(0, 10 ** rng.uniform(-4.5, -3.3), len(sound))
        made.append((sound + hiss.astype(np.float32), labels))
    for sound, labels in made:
        _cut(rng, sound, labels)
    samples = torch.from_numpy(np.stack([sound for sound, _ in made])).clamp(-1, 1)
    return Lesson(samples, torch.from_numpy(np.stack([labels for _, labels in made])))
