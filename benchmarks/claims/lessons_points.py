"""Lessons about clouds of points and about long texts as a modality; part of ``lessons.MAKERS``."""

from __future__ import annotations

import io
from random import Random

import numpy as np

from benchmarks.claims.lesson import Lesson
from mmllm.mini.document_data import RESTORE
from mmllm.mini.points_data import QUESTION
from mmllm.mini.world.described import Ask
from mmllm.mini.world.points import SOLIDS, solid
from mmllm.mini.world.text import recall

POINTS = 128
PAIRS = (4, 8)


def clouds(rng: Random, held_out: bool) -> Lesson:
    """What solid is it? 128 noisy points, turned anyhow, a side left out; kinds are the solids."""
    kind = rng.choice(tuple(SOLIDS))
    buffer = io.BytesIO()
    np.save(buffer, solid(np.random.default_rng(rng.getrandbits(32)), kind, POINTS).astype(np.float16))
    return Lesson((Ask(kind, QUESTION, SOLIDS[kind]),), modality="points", file=(".npy", buffer.getvalue()))


def facts(rng: Random, held_out: bool) -> Lesson:
    """A document of 4 or 8 facts: one is asked by its key (kinds ``facts_4``, ``facts_8``), in training several.

    Half of the training lessons ask for the text itself (group ``restore``).
    """
    pairs = rng.choice(PAIRS)
    matter = recall(rng, pairs, 1 if held_out else pairs)
    text = matter.text(", ")
    asks = [Ask(f"facts_{pairs}", ask.question, ask.answer) for ask in matter.asks]
    group = "" if held_out else rng.choice(("ask", "restore"))
    if group == "restore":
        asks = [Ask("restore", RESTORE, text)]
    return Lesson(asks, modality="document", file=(".txt", text.encode()), group=group)
