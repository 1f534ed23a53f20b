"""Lessons about clips: a needle among events, and colours that follow each other; part of ``lessons.MAKERS``."""

from __future__ import annotations

import io
from functools import partial
from random import Random

import numpy as np

from benchmarks.claims.clips import KEYS, NOTHING, VALUES
from benchmarks.claims.lesson import Lesson
from mmllm.miniature.world.described import Ask
from mmllm.miniature.world.words import COLOURS

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


FRAMES, CELLS, SHOWN = 8, 16, 3


def order(rng: Random, held_out: bool) -> Lesson:
    """Three colours, one after another, each for some of eight frames, anywhere: ``what color is first?``, or last.

    Every order of the same frames is as probable, so their mean tells no more than which three there are.
    """
    colours = rng.sample(range(len(COLOURS)), SHOWN)
    starts = [0, *sorted(rng.sample(range(1, FRAMES), SHOWN - 1))]
    codes = np.zeros((FRAMES, 1, 2))
    for frame in range(FRAMES):
        colour = colours[sum(start <= frame for start in starts) - 1]
        codes[frame, 0] = CELLS + colour, rng.randrange(CELLS)
    asks = [Ask(which, f"what color is {which}?", COLOURS[colours[n]]) for which, n in (("first", 0), ("last", -1))]
    rng.shuffle(asks)
    return Lesson(asks[:1] if held_out else asks, modality="video", file=_file(codes))


def shuffled(rng: Random, held_out: bool) -> Lesson:
    """The clips of ``order`` with their frames shuffled."""
    lesson = order(rng, held_out)
    assert lesson.file is not None
    codes = np.load(io.BytesIO(lesson.file[1]))
    frames = rng.sample(range(FRAMES), FRAMES)
    return Lesson(lesson.asks, modality="video", file=_file(codes[frames]))


CLIPS = {
    "needle_2": partial(needle, frames=2),
    "needle_6": partial(needle, frames=6),
    "needle_15": partial(needle, frames=15),
    "order": order,
    "order_shuffled": shuffled,
}
"""Task -> what makes its lessons."""
