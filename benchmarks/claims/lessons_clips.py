"""Lessons about clips: a needle among events, and things that move or follow each other; part of ``lessons.MAKERS``."""

from __future__ import annotations

import io
from functools import partial
from random import Random

import numpy as np

from benchmarks.claims.clips import KEYS, NOTHING, VALUES
from benchmarks.claims.lesson import Lesson
from mmllm.mini.world.described import Ask
from mmllm.mini.world.words import COLOURS

PATCHES, EVENTS = 4, 3


def _file(codes: np.ndarray) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    np.save(buffer, codes.astype(np.int16))
    return ".npy", buffer.getvalue()


def needle(rng: Random, held_out: bool, frames: int, turns: int = 4) -> Lesson:
    """Every frame holds three events in four patches, each a key and a value, every key once in the clip.

    ``word emma?`` asks for the value (12 words) beside a key; several in training, about different frames.
    """
    keys = rng.sample(range(len(KEYS)), frames * EVENTS)
    codes = np.full((frames, PATCHES, 2), NOTHING)
    events = []
    for frame in range(frames):
        for patch in rng.sample(range(PATCHES), EVENTS):
            key, value = keys.pop(), rng.randrange(len(VALUES))
            codes[frame, patch] = key, len(KEYS) + value
            events.append(Ask(f"needle_{frames}", f"word {KEYS[key]}?", VALUES[value]))
    return Lesson(rng.sample(events, 1 if held_out else turns), modality="video", file=_file(codes))


SIDE, FRAMES, DOTS = 4, 8, 2
WAYS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}


def tracks(rng: Random, held_out: bool) -> Lesson:
    """Two dots of different colours go around a torus of 4 x 4 cells, a cell each frame: ``what does the red do?``

    In eight frames each passes its four cells twice, so the mean of the frames does not tell left from right.
    """
    codes = np.zeros((FRAMES, DOTS, 1))
    asks = []
    for dot, colour in enumerate(rng.sample(range(len(COLOURS)), DOTS)):
        way = rng.choice(tuple(WAYS))
        x, y = rng.randrange(SIDE), rng.randrange(SIDE)
        for frame in range(FRAMES):
            dx, dy = WAYS[way]
            cell = (x + dx * frame) % SIDE + SIDE * ((y + dy * frame) % SIDE)
            codes[frame, dot] = colour * SIDE**2 + cell
        asks.append(Ask("way", f"what does the {COLOURS[colour]} do?", way))
    rng.shuffle(asks)
    return Lesson(asks[:1] if held_out else asks, modality="video", file=_file(codes))


def shuffled(rng: Random, held_out: bool) -> Lesson:
    """The clips of ``tracks`` with their frames in any order."""
    lesson = tracks(rng, held_out)
    assert lesson.file is not None
    codes = np.load(io.BytesIO(lesson.file[1]))
    order = rng.sample(range(FRAMES), FRAMES)
    return Lesson(lesson.asks, modality="video", file=_file(codes[order]))


CLIPS = {
    "needle_2": partial(needle, frames=2),
    "needle_6": partial(needle, frames=6),
    "needle_15": partial(needle, frames=15),
    "tracks": tracks,
    "tracks_shuffled": shuffled,
}
"""Task -> what makes its lessons."""
