"""Lessons on pages of many sizes and shapes: a line of small signs somewhere on one is to be read; for ``lessons``."""

from __future__ import annotations

from random import Random

from PIL import Image, ImageDraw

from benchmarks.claims.lesson import Lesson
from mmllm.miniature.world.described import Ask
from mmllm.miniature.world.render import draw_shape, ink, paper
from mmllm.miniature.world.scenes import CELL, SIZE
from mmllm.miniature.world.words import COLOURS, SHAPES

SIDES = (64, 128, 192)
"""Pixels of a side; the miniature encoders see 64."""


def shape_of(width: int, height: int) -> str:
    """``small`` where an encoder of 64 pixels sees it as it is, else ``wide``, ``tall`` or ``large`` by its shape."""
    if max(width, height) == SIZE:
        return "small"
    return "large" if width == height else "wide" if width > height else "tall"


def pages(rng: Random, held_out: bool) -> Lesson:
    """What is the red shape? A line of two to four signs of one size, each in a colour of its own.

    For each size of page one sign of eight is held out of each colour.
    """
    width, height = rng.choice(SIDES), rng.choice(SIDES)
    number = len(SIDES) * SIDES.index(width) + SIDES.index(height)
    colours = rng.sample(COLOURS, rng.randint(2, 4))
    signs = []
    for colour in colours:
        away = COLOURS.index(colour) + number
        known = [shape for place, shape in enumerate(SHAPES) if (3 * place + away) % 5 != 0]
        signs.append(rng.choice([one for one in SHAPES if one not in known] if held_out else known))
    image = Image.new("RGB", (width, height), paper(rng))
    draw = ImageDraw.Draw(image)
    left, top = rng.randint(0, width - CELL * len(signs)), rng.randint(0, height - CELL)
    for place, (colour, sign) in enumerate(zip(colours, signs, strict=True)):
        x = left + CELL * place
        draw_shape(draw, sign, (x + 1, top + 1, x + 13, top + 13), ink(rng, colour))
    kind = shape_of(width, height)
    asks = [Ask(kind, f"what is the {colour} shape?", sign) for colour, sign in zip(colours, signs, strict=True)]
    rng.shuffle(asks)
    return Lesson(asks[:1] if held_out else asks, image)
