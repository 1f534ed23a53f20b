"""Lessons that read one thing among few or many, with or without its box in the answer; for ``lessons``."""

from __future__ import annotations

from random import Random

from benchmarks.claims.lesson import Lesson
from mmllm.miniature.world.described import Ask
from mmllm.miniature.world.questions import box_text
from mmllm.miniature.world.render import draw_scene
from mmllm.miniature.world.scenes import Thing, scene

FEW, MANY = (2, 3), (6, 8)
"""Least and most things of a scene."""


def _asks(things: tuple[Thing, ...], kind: str, boxes: bool) -> list[Ask]:
    """The colour of a shape that is there once, the shape of such a colour."""
    found = []
    questions = (("shape", "colour", "what color is the {}?"), ("colour", "shape", "what is the {} shape?"))
    for part, other, question in questions:
        values = [getattr(thing, part) for thing in things]
        for thing, value in zip(things, values, strict=True):
            if values.count(value) == 1:
                answer = getattr(thing, other)
                said = f"{answer} {box_text(thing.box)}" if boxes else answer
                found.append(Ask(kind, question.format(value), said, thing.box))
    return found


def _lesson(rng: Random, held_out: bool, boxes: bool) -> Lesson:
    while True:
        kind, (least, most) = rng.choice((("few", FEW), ("many", MANY)))
        things = scene(rng, rng.randint(least, most), held_out)
        asks = _asks(things, kind, boxes)
        if asks:
            chosen = rng.sample(asks, min(len(asks), 1 if held_out else 4))
            return Lesson(chosen, draw_scene(rng, things))


def read(rng: Random, held_out: bool) -> Lesson:
    """What color is the circle? The word alone."""
    return _lesson(rng, held_out, False)


def read_boxes(rng: Random, held_out: bool) -> Lesson:
    """The same, and behind the word the box of what was read, in hundredths."""
    return _lesson(rng, held_out, True)


GROUNDED = {"read": read, "read_boxes": read_boxes}
