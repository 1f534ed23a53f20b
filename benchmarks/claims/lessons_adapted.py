"""Lessons for adapters inside encoders: which way a square goes, where one is, what is heard; in ``lessons.MAKERS``."""

from __future__ import annotations

import io
from random import Random

import numpy as np
import soundfile

from benchmarks.claims.lesson import Lesson
from mmllm.miniature.world.described import Ask
from mmllm.miniature.world.render import ink
from mmllm.miniature.world.sounds import RATE, SLOT, event
from mmllm.miniature.world.words import COLOURS, COLUMNS, PITCHES, SOUNDS

SIDE, CELL = 4, 8
"""Cells along each side of a frame, and pixels along each side of a cell: a patch of the miniature ViT."""
WAYS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}


def _file(frames: np.ndarray) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    np.save(buffer, frames)
    return ".npy", buffer.getvalue()


def _wav(samples: np.ndarray) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.clip(-1, 1), RATE, format="WAV", subtype="PCM_16")
    return ".wav", buffer.getvalue()


def _paper(rng: Random, frames: int) -> np.ndarray:
    """Noisy gray, another gray in each strip: uint8[frames, 32, 32, 3]."""
    noise = np.random.default_rng(rng.getrandbits(32)).normal(rng.uniform(170, 240), 8, (frames, 32, 32, 3))
    return noise.clip(0, 255).astype(np.uint8)


def _square(rng: Random, frame: np.ndarray, cell: tuple[int, int], colour: tuple[int, ...]) -> None:
    x, y = (CELL * part + rng.randint(0, 2) for part in cell)
    frame[y : y + 6, x : x + 6] = colour


def ways(rng: Random, held_out: bool) -> Lesson:
    """A square crosses its row or column of 4 x 4 cells in four frames, another one stays: which way does it go?

    The mean of the frames shows the line, not the direction.
    """
    way = rng.choice(list(WAYS))
    (dx, dy), line, frames = WAYS[way], rng.randrange(SIDE), _paper(rng, SIDE)
    moving, resting = (tuple(ink(rng, colour)) for colour in rng.sample(COLOURS, 2))
    still = (rng.randrange(SIDE), rng.randrange(SIDE))
    for number, frame in enumerate(frames):
        step = number if dx + dy > 0 else SIDE - 1 - number
        _square(rng, frame, still, resting)
        _square(rng, frame, (step, line) if dx else (line, step), moving)
    return Lesson((Ask("way", "left right above below?", way),), modality="video", file=_file(frames))


def spots(rng: Random, held_out: bool) -> Lesson:
    """Three squares of different colours in one picture: where is the red? In one of 16 cells."""
    frame, asks = _paper(rng, 1), []
    cells = rng.sample([(x, y) for x in range(SIDE) for y in range(SIDE)], 3)
    for cell, colour in zip(cells, rng.sample(COLOURS, 3), strict=True):
        _square(rng, frame[0], cell, tuple(ink(rng, colour)))
        asks.append(Ask("where", f"where is the {colour}?", f"{COLUMNS[cell[0]]}{cell[1] + 1}"))
    return Lesson(asks[:1] if held_out else asks, modality="image", file=_file(frame))


def heard(rng: Random, held_out: bool) -> Lesson:
    """Two sounds of half a second: which (``sound``, 8) and in which manner (``manner``, 6)? Two groups of lessons.

    In the test the pairs of manner and sound are others than in training.
    """
    draw = np.random.default_rng(rng.getrandbits(32))
    out, group = draw.normal(0, 1e-4, 2 * SLOT), rng.choice(("sound", "manner"))
    asks = []
    for slot in range(2):
        while True:
            manner, sound = rng.choice(PITCHES), rng.choice(SOUNDS)
            if ((PITCHES.index(manner) + 3 * SOUNDS.index(sound)) % 8 == 0) == held_out:
                break
        samples = event(draw, sound, manner)[: SLOT - 400]
        start = slot * SLOT + rng.randrange(400)
        out[start : start + len(samples)] += samples
        words = (f"what is heard at t{slot + 1}?", sound) if group == "sound" else (f"kind at t{slot + 1}?", manner)
        asks.append(Ask(group, *words))
    rng.shuffle(asks)
    return Lesson(asks[:1] if held_out else asks, modality="audio", file=_wav(out), group=group)


def tones(rng: Random, held_out: bool) -> Lesson:
    """Two tones of half a second that rise (``above``) or fall (``below``), most of them harmonic, some pure."""
    draw = np.random.default_rng(rng.getrandbits(32))
    out, asks = draw.normal(0, 1e-4, 2 * SLOT), []
    for slot in range(2):
        up, low = rng.random() < 0.5, rng.uniform(150, 1500)
        hz = np.geomspace(low, low * rng.uniform(1.3, 2), int(0.8 * SLOT))
        phase = 2 * np.pi * np.cumsum(hz if up else hz[::-1]) / RATE
        tone = sum(np.sin(k * phase) / k for k in range(1, rng.randint(1, 5) + 1))
        start = slot * SLOT + rng.randrange(800)
        out[start : start + len(hz)] += 0.05 * tone * np.hanning(len(hz))
        asks.append(Ask("tone", f"above or below at t{slot + 1}?", "above" if up else "below"))
    rng.shuffle(asks)
    return Lesson(asks[:1] if held_out else asks, modality="audio", file=_wav(out))


ADAPTED = {"ways": ways, "spots": spots, "heard": heard, "tones": tones}
"""Task -> what makes its lessons."""
