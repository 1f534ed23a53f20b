"""What the tasks of the claims show and ask: one lesson is a picture (or none), a text before, and questions on it.

``data`` writes lessons of each task to files; everything is drawn from the miniature world's vocabulary and splits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from PIL import Image, ImageDraw

from benchmarks.claims.lesson import Lesson, Make
from benchmarks.claims.lessons_adapted import ADAPTED
from benchmarks.claims.lessons_clips import CLIPS
from benchmarks.claims.lessons_graphs import GRAPHS
from benchmarks.claims.lessons_grounded import GROUNDED
from benchmarks.claims.lessons_pages import pages
from benchmarks.claims.lessons_papers import PAPERS
from benchmarks.claims.lessons_points import clouds, facts
from mmllm.miniature.parts.lm_curriculum import matter_of
from mmllm.miniature.tasks.images import DESCRIBE, show
from mmllm.miniature.world.described import Ask
from mmllm.miniature.world.questions import about_scene
from mmllm.miniature.world.render import draw_scene, ink
from mmllm.miniature.world.scenes import CELL, Thing, scene
from mmllm.miniature.world.text import graph, skill, sounds
from mmllm.miniature.world.words import COLOURS, COLUMNS, ITEMS, NAMES, NUMBERS, TOPICS


def _scene(rng: Random, held_out: bool, most: int, kinds: dict[str, float], negated: float | None = None) -> Lesson:
    """A scene of 2..most things with questions of these kinds."""
    while True:
        things = scene(rng, rng.randint(2, most), held_out)
        turns = 1 if held_out else 6
        described = about_scene(rng, things, turns, kinds=kinds, negated_share=negated)
        if described.asks:
            return Lesson(described.asks, draw_scene(rng, things))


def presence(rng: Random, held_out: bool) -> Lesson:
    """Is there a red shape, a circle, a red circle? Never negated."""
    return _scene(rng, held_out, 4, {"presence": 1.0}, negated=0.0)


def where(rng: Random, held_out: bool) -> Lesson:
    """In which of the 4 x 4 cells is the red circle?"""
    return _scene(rng, held_out, 4, {"where": 1.0})


def attributes(rng: Random, held_out: bool) -> Lesson:
    """The colour or the shape of one thing, in one word."""
    return _scene(rng, held_out, 4, {"color_of": 1.0, "shape_of": 1.0, "part_at": 1.0})


def grounding(rng: Random, held_out: bool) -> Lesson:
    """The box of the red circle."""
    return _scene(rng, held_out, 4, {"box": 1.0})


def scenes(rng: Random, held_out: bool) -> Lesson:
    """Questions of every kind but boxes."""
    kinds = {"at": 3.0, "part_at": 1.5, "color_of": 1.5, "shape_of": 1.5, "where": 2.0, "count": 1.5, "presence": 1.5}
    return _scene(rng, held_out, 5, kinds, negated=0.0)


def relations(rng: Random, held_out: bool) -> Lesson:
    """What is left of the red circle? The LM knows only yes or no questions of this sort."""
    while True:
        things = scene(rng, rng.randint(2, 3), held_out)
        asks = [Ask("beside", *pair) for pair in _beside(things)]
        if asks:
            return Lesson(rng.sample(asks, min(1 if held_out else 5, len(asks))), draw_scene(rng, things))


def _beside(things: Sequence[Thing]) -> list[tuple[str, str]]:
    """Questions for what is on one side of a thing, with answers, where that is one thing only."""
    found = []
    for thing in things:
        named = f"{thing.colour} {thing.shape}"
        if sum(f"{other.colour} {other.shape}" == named for other in things) > 1:
            continue
        for word, axis, sign in (("left of", 0, -1), ("right of", 0, 1), ("above", 1, -1), ("below", 1, 1)):
            own = ord(thing.place[axis])
            there = [other for other in things if sign * (ord(other.place[axis]) - own) > 0]
            if len(there) == 1:
                found.append((f"what is {word} the {named}?", f"{there[0].colour} {there[0].shape}"))
    return found


def captions(rng: Random, held_out: bool) -> Lesson:
    """Describe the scene."""
    things = scene(rng, rng.randint(1, 3), held_out)
    caption = about_scene(rng, things, 0).caption
    return Lesson((Ask("describe", DESCRIBE, caption),), draw_scene(rng, things))


def fine(rng: Random, held_out: bool) -> Lesson:
    """Small letters and numbers on documents, and handwritten digits."""
    while True:
        sort = "document" if rng.random() < 0.75 else "digit"
        shown = show(rng, sort, 1 if held_out else 4, held_out)
        asks = [ask for ask in shown.described.asks if ask.kind not in ("parity", "doc_kind")]
        if asks:
            return Lesson(asks, shown.image)


MARK = 6
"""Pixels along each side of a mark: less than a patch of the miniature encoders."""
CORNERS = {"circle": (1, 1), "rectangle": (9, 1), "triangle": (1, 9), "star": (9, 9), "cross": (5, 5)}
"""What a mark is called by where it is in its cell: its left and upper edge in pixels."""


def _draw_marks(rng: Random, things: Sequence[Thing]) -> Image.Image:
    """In place of each thing a gray square with a small mark of its colour, where its shape's name says."""
    squares = [replace(thing, colour="gray", shape="rectangle") for thing in things]
    image = draw_scene(rng, squares)
    draw = ImageDraw.Draw(image)
    for thing in things:
        x, y = CORNERS[thing.shape]
        left = CELL * COLUMNS.index(thing.place[0]) + x + rng.randint(0, 1)
        top = CELL * (int(thing.place[1]) - 1) + y + rng.randint(0, 1)
        draw.rectangle((left, top, left + MARK - 1, top + MARK - 1), fill=ink(rng, thing.colour))
    return image


def marks(rng: Random, held_out: bool) -> Lesson:
    """Small marks on gray squares, in half of the lessons ordinary scenes; the same words, questions and splits.

    Kinds: ``corner`` (where in its cell a mark is, told by a shape's name), ``mark`` (its colour), ``thing`` (colour or
    shape of a thing of an ordinary scene).
    """
    small = rng.random() < (0.7 if held_out else 0.6)
    things = scene(rng, rng.randint(2, 4), held_out)
    while small and any(thing.colour == "gray" for thing in things):
        things = scene(rng, rng.randint(2, 4), held_out)
    image = _draw_marks(rng, things) if small else draw_scene(rng, things)
    asks = []
    for thing in things:
        asks.append(Ask("corner" if small else "thing", f"what shape is at {thing.place}?", thing.shape))
        asks.append(Ask("mark" if small else "thing", f"what color is at {thing.place}?", thing.colour))
    rng.shuffle(asks)
    if held_out:
        return Lesson(asks[:1], image)
    described = Ask("describe", DESCRIBE, about_scene(rng, things, 0).caption)
    return Lesson((described, *asks[:5]), image)


def text(rng: Random, held_out: bool) -> Lesson:
    """Text only: lookups in described scenes, documents, sounds and graphs, and the unrelated skills."""
    turns = 1 if held_out else 4
    if rng.random() < 0.5:
        return Lesson(skill(rng, turns))
    matter = matter_of(rng, rng.choice(("scene", "document", "sound", "graph", "recall")), 1.0, turns, held_out)
    return Lesson(matter.asks[:turns], before=matter.text(", ")) if matter.asks else text(rng, held_out)


# ---- conflicting domains: the same question, another answer; only what was described before tells which

CODED = (*ITEMS, *COLOURS)
SHIFTS = {"sounds": 1, "graphs": 7, "people": 13}


def _people(rng: Random) -> str:
    return ", ".join(f"{name} {rng.choice(NUMBERS)}" for name in rng.sample(NAMES, rng.randint(2, 4)))


def domains(rng: Random, held_out: bool) -> Lesson:
    """``word tea?`` is answered by another word, which one depends on the domain of the description before it."""
    group = rng.choice(tuple(SHIFTS))
    before = _people(rng) if group == "people" else (sounds if group == "sounds" else graph)(rng, 0).text(", ")
    words = rng.sample(CODED, 1 if held_out else 5)
    asks = [Ask(group, f"word {word}?", CODED[(CODED.index(word) + SHIFTS[group]) % len(CODED)]) for word in words]
    return Lesson(asks, before=before, group=group)


# ---- several new tasks, named by words that mean nothing to the LM so far


def _rotate(rng: Random) -> tuple[str, str]:
    words = rng.sample(NAMES, 3)
    return " ".join(words), " ".join((*words[1:], words[0]))


def _next(rng: Random) -> tuple[str, str]:
    number = rng.randint(0, 98)
    return str(number), str(number + 1)


def _code(rng: Random) -> tuple[str, str]:
    word = rng.choice(COLOURS)
    return word, COLOURS[(COLOURS.index(word) + 3) % len(COLOURS)]


def _twice(rng: Random) -> tuple[str, str]:
    words = rng.sample(ITEMS, 2)
    return " ".join(words), " ".join(word for word in words for _ in range(2))


def _last(rng: Random) -> tuple[str, str]:
    words = rng.sample(NAMES, 4)
    return " ".join(words), f"{words[-1]} {words[0]}"


TEXT_TASKS: dict[str, Callable[[Random], tuple[str, str]]] = {
    "physics": _rotate,
    "law": _next,
    "music": _code,
    "art": _twice,
    "sport": _last,
}
"""Topic word that names the task -> (what is given, what is to be said)."""
assert set(TEXT_TASKS) <= set(TOPICS)


def _task(rng: Random, name: str) -> Ask:
    given, said = TEXT_TASKS[name](rng)
    return Ask(name, f"{name} {given}?", said)


def tasks(rng: Random, held_out: bool) -> Lesson:
    """One of five text tasks; conversations stay with one task."""
    name = rng.choice(tuple(TEXT_TASKS))
    return Lesson([_task(rng, name) for _ in range(1 if held_out else 4)], group=name)


def pairs(rng: Random, held_out: bool) -> Lesson:
    """One of the five text tasks, asked once or twice in a question: the form of ``composite`` without mixing tasks."""
    name = rng.choice(tuple(TEXT_TASKS))
    asks = []
    for _ in range(1 if held_out else 4):
        one = _task(rng, name)
        if rng.random() < 0.5:
            other = _task(rng, name)
            one = Ask(name, f"{one.question} {other.question}", f"{one.answer}, {other.answer}")
        asks.append(one)
    return Lesson(asks, group=name)


def composite(rng: Random, held_out: bool) -> Lesson:
    """Two different tasks asked at once, answered one after the other with a comma between."""
    asks = []
    for _ in range(1 if held_out else 2):
        one, two = (_task(rng, name) for name in rng.sample(tuple(TEXT_TASKS), 2))
        asks.append(Ask("composite", f"{one.question} {two.question}", f"{one.answer}, {two.answer}"))
    return Lesson(asks)


MAKERS: dict[str, Make] = {
    **GROUNDED,
    "presence": presence,
    "where": where,
    "attributes": attributes,
    "grounding": grounding,
    "scenes": scenes,
    "relations": relations,
    "captions": captions,
    "fine": fine,
    "marks": marks,
    "text": text,
    "text_domains": domains,
    "text_tasks": tasks,
    "text_pairs": pairs,
    "text_composite": composite,
    "solids": clouds,
    "facts": facts,
    **CLIPS,
    **ADAPTED,
    **GRAPHS,
    "pages": pages,
    **PAPERS,
}
"""Task of the claims -> what makes its lessons."""
