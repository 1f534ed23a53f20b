"""Pictures that the page draws on: boxes and points in colours, and weights of patches as heat."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from serve.page.marks import Mark

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#ffffff")
"""Told apart by colour-blind readers too (Okabe and Ito 2008), with white for their black."""
HEAT = ("#000004", "#bb3754", "#fcffa4")
"""Ends and middle of matplotlib's colour map inferno: brighter is more, in print and to all eyes."""


def colour_of(number: int) -> str:
    """Return the colour of the mark of a number, from 0."""
    return COLOURS[number % len(COLOURS)]


def marked(picture: Image.Image, marks: Sequence[Mark]) -> Image.Image:
    """Return the picture with its marks drawn and numbered from 1."""
    drawn = picture.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    width = max(3, round(max(drawn.size) / 130))
    font = ImageFont.load_default(max(11, round(max(drawn.size) / 32)))
    for number, mark in enumerate(marks):
        colour = colour_of(number)
        places = [value * drawn.size[axis % 2] for axis, value in enumerate(mark.numbers)]
        if mark.is_box:
            # dark around the colour: it is seen on any ground
            box = (places[0], places[1], places[2], places[3])
            pen.rectangle(box, outline="black", width=width + 2)
            pen.rectangle((box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1), outline=colour, width=width)
        else:
            _point(pen, places, 3 * width, colour)
        _number(pen, drawn.size, (places[0], places[1]), str(number + 1), colour, font)
    return drawn


def _point(pen: ImageDraw.ImageDraw, at: Sequence[float], radius: float, colour: str) -> None:
    x, y = at
    pen.ellipse((x - radius - 2, y - radius - 2, x + radius + 2, y + radius + 2), fill="black")
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _number(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], at: tuple[float, float], text: str, colour: str, font: object
) -> None:
    """Write a mark's number on a ground of its colour, inside the picture."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)  # type: ignore[arg-type]
    wide, high = right - left + 8, bottom - top + 6
    x = min(max(0, at[0]), max(0, size[0] - wide))
    y = min(max(0, at[1] - high), max(0, size[1] - high))
    pen.rectangle((x, y, x + wide, y + high), fill=colour, outline="black")
    pen.text((x + 4 - left, y + 3 - top), text, fill=_ink(colour), font=font)  # type: ignore[arg-type]


def _ink(colour: str) -> str:
    """Return black or white, whichever is read better on a colour."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "white"


def heated(picture: Image.Image, weights: Sequence[Sequence[float]], most: float) -> Image.Image:
    """Return the picture under a heat map of ``weights``, rows of columns; ``most`` is the brightest."""
    rows, cols = len(weights), len(weights[0])
    grey = Image.new("L", (cols, rows))
    grey.putdata([round(255 * min(1.0, weight / most)) if most > 0 else 0 for row in weights for weight in row])
    # patches stay squares: their borders are all that the model knows of the picture
    heat = ImageOps.colorize(grey, *(HEAT[0], HEAT[2]), mid=HEAT[1]).resize(picture.size, Image.Resampling.NEAREST)
    plain = ImageOps.grayscale(picture.convert("RGB")).convert("RGB")
    return Image.blend(plain, heat, 0.6)
