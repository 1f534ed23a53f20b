"""Lessons about a node whose neighbours' words tell its topic better than its own; part of ``lessons.MAKERS``."""

from __future__ import annotations

import json
from random import Random

from benchmarks.claims.lesson import Lesson, Make
from mmllm.miniature.world.described import Ask
from mmllm.miniature.world.graphs import CLASSES, QUESTION, text_of

NEIGHBOURS = 8
HOMOPHILY = 0.85
TOLD = 0.4
"""Share of a text's three topics that are the node's own."""


def topics(rng: Random, held_out: bool) -> Lesson:
    """The topic of a node with eight neighbours; a share ``HOMOPHILY`` of them are of its topic."""
    return _lesson(rng, HOMOPHILY)


def topics_shuffled(rng: Random, held_out: bool) -> Lesson:
    """The same where the edges lead to any nodes: neighbours are of its topic as often as by chance."""
    return _lesson(rng, 1 / len(CLASSES))


def _lesson(rng: Random, homophily: float) -> Lesson:
    topic = rng.choice(CLASSES)
    others = [one for one in CLASSES if one != topic]
    around = [topic if rng.random() < homophily else rng.choice(others) for _ in range(NEIGHBOURS)]
    nodes = [text_of(rng, one, TOLD, 3) for one in (topic, *around)]
    graph = {"nodes": nodes, "edges": [[0, number] for number in range(1, NEIGHBOURS + 1)], "target": 0}
    file = (".json", json.dumps(graph).encode())
    return Lesson((Ask("topic", QUESTION, topic),), modality="graph", file=file)


GRAPHS: dict[str, Make] = {"topics": topics, "topics_shuffled": topics_shuffled}
"""Task of the claims -> what makes its lessons."""
