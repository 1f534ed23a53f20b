"""Scenes: up to six small coloured shapes on a grid of 4 x 4 cells, one per cell, and large single shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from mmllm.miniature.world.splits import large_held_out, object_held_out
from mmllm.miniature.world.words import COLOURS, EASY_SHAPES, PLACES, SHAPES

CELL = 16
SIZE = 64


@dataclass(frozen=True)
class Thing:
    """One object; pixels is its tight box x1, y1, x2, y2 in image pixels, both ends included."""

    place: str
    colour: str
    shape: str
    pixels: tuple[int, int, int, int]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The box normalised to 0..99, both ends included."""
        x1, y1, x2, y2 = self.pixels
        return (x1 * 100 // SIZE, y1 * 100 // SIZE, (x2 + 1) * 100 // SIZE - 1, (y2 + 1) * 100 // SIZE - 1)

    @property
    def words(self) -> tuple[str, str, str]:
        """The fact: place, colour, shape."""
        return (self.place, self.colour, self.shape)


def _pixels(rng: Random, place: str) -> tuple[int, int, int, int]:
    column, row = "abcd".index(place[0]), int(place[1]) - 1
    side = rng.randint(12, 15)
    slack = CELL - side
    left = CELL * column + max(0, min(slack, slack // 2 + rng.randint(-1, 1)))
    top = CELL * row + max(0, min(slack, slack // 2 + rng.randint(-1, 1)))
    return (left, top, left + side - 1, top + side - 1)


def scene(rng: Random, n: int, held_out: bool) -> tuple[Thing, ...]:
    """A scene of n things in reading order; all combinations are held-out ones, or none is."""
    things = []
    for place in sorted(rng.sample(PLACES, n), key=PLACES.index):
        while True:
            colour, shape = rng.choice(COLOURS), rng.choice(SHAPES)
            if object_held_out(place, colour, shape) == held_out:
                break
        things.append(Thing(place, colour, shape, _pixels(rng, place)))
    return tuple(things)


def large(rng: Random, held_out: bool, shapes: Sequence[str] = EASY_SHAPES) -> Thing:
    """One shape of any size anywhere, as in easy-VQA; its place is the cell of its middle."""
    while True:
        colour, shape = rng.choice(COLOURS), rng.choice(shapes)
        if large_held_out(colour, shape) == held_out:
            break
    width, height = rng.randint(10, 50), rng.randint(10, 50)
    if shape not in ("rectangle", "triangle"):
        height = width
    left, top = rng.randint(0, SIZE - width), rng.randint(0, SIZE - height)
    place = "abcd"[(left + width // 2) // CELL] + str((top + height // 2) // CELL + 1)
    return Thing(place, colour, shape, (left, top, left + width - 1, top + height - 1))
