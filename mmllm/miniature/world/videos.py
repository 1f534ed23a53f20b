"""Clips of the miniature world: shapes that appear, move over the cells and vanish in eight moments t1..t8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mmllm.miniature.world.described import Ask, Described
from mmllm.miniature.world.render import draw_shape, ink, noisy, paper
from mmllm.miniature.world.scenes import CELL, SIZE
from mmllm.miniature.world.splits import HELD_OUT_EVERY
from mmllm.miniature.world.words import COLOURS, COLUMNS, SHAPES, TIMES

MOVES = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Word for a way to go -> (columns, rows) of one step."""
GRID = len(COLUMNS)


@dataclass(frozen=True)
class Actor:
    """One shape; ``cells`` are (column, row) at each moment from ``start`` on, after which it is gone."""

    colour: str
    shape: str
    start: int
    """Moment it appears, 0..7."""
    cells: tuple[tuple[int, int], ...]
    move: str | None
    """Word for the way it goes; None where it stays."""

    def at(self, moment: int) -> tuple[int, int] | None:
        """Its cell at a moment, None while it is not to be seen."""
        number = moment - self.start
        return self.cells[number] if 0 <= number < len(self.cells) else None


def video_held_out(moment: int, colour: str, shape: str) -> bool:
    """One colour of eight is held out for each (moment of appearing, shape)."""
    return (COLOURS.index(colour) + 3 * SHAPES.index(shape) + 5 * moment) % HELD_OUT_EVERY == 0


def place(cell: tuple[int, int]) -> str:
    """The word for a cell: "a1" is at the top left."""
    return f"{COLUMNS[cell[0]]}{cell[1] + 1}"


def actors(rng: Random, n: int, held_out: bool) -> tuple[Actor, ...]:
    """``n`` actors of different shapes that appear one after another and never meet; all held-out ones, or none."""
    while True:
        starts = sorted(rng.sample(range(len(TIMES) - 1), n))
        found = []
        for start, shape in zip(starts, rng.sample(SHAPES, n), strict=True):
            colours = [colour for colour in COLOURS if video_held_out(start, colour, shape) == held_out]
            found.append(_actor(rng, start, rng.choice(colours), shape))
        seen = [(moment, cell) for one in found for moment in range(len(TIMES)) if (cell := one.at(moment))]
        if len(seen) == len(set(seen)):
            return tuple(found)


def _actor(rng: Random, start: int, colour: str, shape: str) -> Actor:
    """It stays, or goes a cell a moment until the edge or for 1 to 3 steps; then it stands until it is gone."""
    length = rng.randint(2, len(TIMES) - start)
    cell = (rng.randrange(GRID), rng.randrange(GRID))
    ways = [word for word, (x, y) in MOVES.items() if 0 <= cell[0] + x < GRID and 0 <= cell[1] + y < GRID]
    move = rng.choice(ways) if rng.random() < 0.7 else None
    steps, cells = rng.randint(1, 3), [cell]
    for number in range(1, length):
        x, y = MOVES[move] if move is not None and number <= steps else (0, 0)
        column, row = cells[-1]
        cells.append((min(max(column + x, 0), GRID - 1), min(max(row + y, 0), GRID - 1)))
    return Actor(colour, shape, start, tuple(cells), move)


def draw_clip(rng: Random, cast: Sequence[Actor]) -> tuple[list[NDArray[np.uint8]], list[float]]:
    """8 to 16 frames uint8[64, 64, 3] and their times in seconds; even frames taken by eight are the eight moments."""
    count, rate = rng.randint(len(TIMES), 2 * len(TIMES)), rng.uniform(2, 8)
    background, noise = paper(rng), rng.uniform(0, 5)
    look = {one: (ink(rng, one.colour), rng.randint(12, 15), rng.random(), rng.random()) for one in cast}
    frames = []
    for number in range(count):
        image = Image.new("RGB", (SIZE, SIZE), background)
        draw = ImageDraw.Draw(image)
        for one, (fill, side, right, down) in look.items():
            cell = one.at(round(number * (len(TIMES) - 1) / (count - 1)))
            if cell is not None:
                left, top = (
                    CELL * n + int((CELL - side) * share) for n, share in zip(cell, (right, down), strict=True)
                )
                draw_shape(draw, one.shape, (left, top, left + side - 1, top + side - 1), fill)
        frames.append(np.asarray(noisy(image, rng, noise)))
    return frames, [number / rate for number in range(count)]


def about_video(rng: Random, cast: Sequence[Actor], n: int) -> Described:
    """At most ``n`` questions of different kinds, answered in one word, and the caption: who appears when and where."""
    asks: list[Ask] = []
    for ask in rng.sample(every_ask(rng, cast), k=len(KINDS)):
        if len(asks) < n and ask is not None:
            asks.append(ask)
    facts = tuple((TIMES[one.start], place(one.cells[0]), one.colour, one.shape) for one in cast)
    return Described("video", facts, tuple(asks), ", ".join(" ".join(fact) for fact in facts))


KINDS = ("first", "last", "when", "from", "end", "motion", "count", "at")


def every_ask(rng: Random, cast: Sequence[Actor]) -> list[Ask | None]:
    """One question of each of ``KINDS``, None where the clip does not allow it."""
    one = rng.choice(cast)
    name = rng.choice((f"{one.colour} {one.shape}", one.shape))
    word = rng.choice(("color", "shape"))
    first, last = ((actor.colour if word == "color" else actor.shape) for actor in (cast[0], cast[-1]))
    moving = [actor for actor in cast if actor.move is not None and actor.cells[0] != actor.cells[-1]]
    mover = rng.choice(moving) if moving else None
    moment = rng.randrange(one.start, one.start + len(one.cells))
    cell = one.at(moment)
    assert cell is not None
    return [
        Ask("first", f"what {word} is first?", first) if len(cast) > 1 else None,
        Ask("last", f"what {word} is last?", last) if len(cast) > 1 else None,
        Ask("when", f"at which is the {name} first?", TIMES[one.start]),
        Ask("from", f"where is the {name} first?", place(one.cells[0])),
        Ask("end", f"where is the {name} last?", place(one.cells[-1])),
        Ask("motion", f"what does the {mover.shape} do?", str(mover.move)) if mover is not None else None,
        Ask("count", "how many shapes?", str(len(cast))),
        Ask("at", f"where is the {name} at {TIMES[moment]}?", place(cell)),
    ]
