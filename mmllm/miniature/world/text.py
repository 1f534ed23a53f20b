"""Matters known only as text: described sounds, small graphs, plain recall, and unrelated skills for forgetting."""

from __future__ import annotations

from random import Random

from mmllm.miniature.world.described import Ask, Described
from mmllm.miniature.world.words import NODES, NUMBERS, PITCHES, SOUNDS, TIMES, TOPICS, every_word

WORDS = tuple(every_word())
SKILLS = ("mod", "sort", "copy", "reverse")


def recall(rng: Random, pairs: int, n: int) -> Described:
    """Random keys with random values; the question is the bare key."""
    keys = rng.sample(WORDS, pairs)
    facts = tuple((key, rng.choice(WORDS)) for key in keys)
    asked = rng.sample(facts, min(n, pairs))
    asks = tuple(Ask("recall", f"{key}?", value) for key, value in asked)
    return Described("recall", facts, asks, ", ".join(" ".join(fact) for fact in facts))


def digit(rng: Random, number: int, n: int, parity: float = 0.25) -> Described:
    """A handwritten digit: which one, and (a share `parity` of the questions) whether it is even."""
    asks = []
    for _ in range(n):
        if rng.random() < 1 - parity:
            asks.append(Ask("digit", rng.choice(("what digit is it?", "what number is it?")), str(number)))
        else:
            word = rng.choice(("even", "odd"))
            truth = (number % 2 == 0) == (word == "even")
            asks.append(Ask("parity", f"is the digit {word}?", "yes" if truth else "no"))
    return Described("digit", (("digit", str(number)),), tuple(asks), f"digit {number}")


def sounds(rng: Random, n: int) -> Described:
    """Sounds with their times: "t1 low bell"."""
    facts = tuple((t, rng.choice(PITCHES), rng.choice(SOUNDS)) for t in sorted(rng.sample(TIMES, rng.randint(1, 4))))
    asks = []
    for _ in range(n):
        time, pitch, sound = rng.choice(facts)
        if rng.random() < 0.7 or [f[2] for f in facts].count(sound) > 1:
            asks.append(Ask("sound", f"what is heard at {time}?", f"{pitch} {sound}"))
        else:
            asks.append(Ask("sound", f"where is the {sound}?", time))
    return Described("sound", facts, tuple(asks), ", ".join(" ".join(fact) for fact in facts))


def graph(rng: Random, n: int) -> Described:
    """Nodes with a topic and one link each: "n1 physics n2"."""
    nodes = sorted(rng.sample(NODES, rng.randint(2, 4)))
    facts = tuple((node, rng.choice(TOPICS), rng.choice([x for x in nodes if x != node])) for node in nodes)
    asks = []
    for _ in range(n):
        node, topic, to = rng.choice(facts)
        if rng.random() < 0.5:
            asks.append(Ask("graph", f"what is the topic of {node}?", topic))
        else:
            asks.append(Ask("graph", f"what is linked to {node}?", to))
    return Described("graph", facts, tuple(asks), ", ".join(" ".join(fact) for fact in facts))


def skill(rng: Random, n: int) -> list[Ask]:
    """Unrelated skills: modular addition, sorting, copying, reversing; no description is needed."""
    asks = []
    for _ in range(n):
        name = rng.choice(SKILLS)
        if name == "mod":
            a, b = rng.randint(0, 9), rng.randint(0, 9)
            asks.append(Ask("mod", f"add {a} {b} mod 10?", str((a + b) % 10)))
        elif name == "sort":
            numbers = rng.sample(NUMBERS[:30], 3)
            asks.append(Ask("sort", f"sort {' '.join(numbers)}?", " ".join(sorted(numbers, key=int))))
        else:
            words = rng.sample(WORDS, 3)
            asks.append(Ask(name, f"{name} {' '.join(words)}?", " ".join(words if name == "copy" else words[::-1])))
    return asks
