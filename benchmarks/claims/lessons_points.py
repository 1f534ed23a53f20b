"""Lessons about clouds of points and about long texts as a modality; part of ``lessons.MAKERS``."""

from __future__ import annotations

import io
from random import Random

import numpy as np

from benchmarks.claims.lesson import Lesson
from mmllm.miniature.tasks.documents import RESTORE
from mmllm.miniature.tasks.points import QUESTION
from mmllm.miniature.world.described import Ask
from mmllm.miniature.world.points import SOLIDS, solid
from mmllm.miniature.world.words import COLOURS, ITEMS

POINTS = 128
FACTS = 4


def clouds(rng: Random, held_out: bool) -> Lesson:
    """What solid is it? 128 noisy points, turned anyhow, a side left out; kinds are the solids."""
    kind = rng.choice(tuple(SOLIDS))
    buffer = io.BytesIO()
    np.save(buffer, solid(np.random.default_rng(rng.getrandbits(32)), kind, POINTS).astype(np.float16))
    return Lesson((Ask(kind, QUESTION, SOLIDS[kind]),), modality="points", file=(".npy", buffer.getvalue()))


def facts(rng: Random, held_out: bool) -> Lesson:
    """A text of four items with a colour each ("tea red, milk blue, ..."): the colour of one, in training of all.

    In group ``restore``, a quarter of the training lessons, the text itself is asked for.
    """
    pairs = [(item, rng.choice(COLOURS)) for item in rng.sample(ITEMS, FACTS)]
    text = ", ".join(" ".join(pair) for pair in pairs)
    group = "restore" if not held_out and rng.random() < 0.25 else "ask"
    if group == "restore":
        asks = [Ask("restore", RESTORE, text)]
    else:
        asked = rng.sample(pairs, 1 if held_out else FACTS)
        asks = [Ask(f"fact_{pairs.index((item, colour)) + 1}", f"{item}?", colour) for item, colour in asked]
    return Lesson(asks, modality="document", file=(".txt", text.encode()), group=group)
