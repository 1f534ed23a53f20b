"""Graphs of nodes with a topic: linked nodes mostly share it, a node's own words tell it seldom (stochastic blocks)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from mmllm.miniature.world.words import NODES, TOPICS

CLASSES = TOPICS[:6]
QUESTION = "what is the topic of n1?"
"""Asked about a node whatever its words: the LM knows this question of the graphs it read about."""


@dataclass(frozen=True)
class Blocks:
    """A graph; node i has ``topics[i]`` and says ``texts[i]``."""

    texts: tuple[str, ...]
    topics: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]


def blocks(rng: Random, n: int, degree: int = 8, homophily: float = 0.85, told: float = 0.35, words: int = 3) -> Blocks:
    """``n`` nodes with ``degree`` neighbours on average, a share ``homophily`` of them of the same topic.

    Texts are those of :func:`text_of`.
    """
    topics = [rng.choice(CLASSES) for _ in range(n)]
    own = {topic: [node for node in range(n) if topics[node] == topic] for topic in CLASSES}
    others = {topic: [node for node in range(n) if topics[node] != topic] for topic in CLASSES}
    edges = []
    for node in range(n):
        for _ in range(degree // 2):
            near = own[topics[node]] if rng.random() < homophily else others[topics[node]]
            edges.append((node, rng.choice(near or [node])))
    return Blocks(tuple(text_of(rng, topic, told, words) for topic in topics), tuple(topics), tuple(edges))


def shuffled(rng: Random, graph: Blocks) -> Blocks:
    """The same nodes; as many edges, each between any two of them."""
    n = len(graph.texts)
    return replace(graph, edges=tuple((rng.randrange(n), rng.randrange(n)) for _ in graph.edges))


def text_of(rng: Random, topic: str, told: float, words: int) -> str:
    """A node's name and ``words`` topics, each its own with probability ``told``, else another one."""
    other = [one for one in CLASSES if one != topic]
    said = [topic if rng.random() < told else rng.choice(other) for _ in range(words)]
    return " ".join([rng.choice(NODES), *said])
