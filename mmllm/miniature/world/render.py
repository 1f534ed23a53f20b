"""Draws the world: scenes and large shapes, handwritten digits, documents; 64 x 64 RGB images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mmllm.miniature.world.documents import Rows
from mmllm.miniature.world.scenes import CELL, SIZE, Thing
from mmllm.miniature.world.splits import digit_image_held_out
from mmllm.miniature.world.words import COLOURS

Rgb = tuple[int, int, int]
INK: dict[str, Rgb] = {
    "red": (240, 14, 14),
    "green": (0, 128, 0),
    "blue": (14, 14, 240),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "teal": (0, 128, 128),
    "brown": (165, 42, 42),
    "yellow": (248, 240, 10),
}
HALF = SIZE // 2


def paper(rng: Random, darkest: int = 225) -> Rgb:
    """A light background, white to pastel."""
    return (rng.randint(darkest, 255), rng.randint(darkest, 255), rng.randint(darkest, 255))


def ink(rng: Random, colour: str, spread: int = 14) -> Rgb:
    """The colour of a name, a little different each time."""
    r, g, b = (max(0, min(255, value + rng.randint(-spread, spread))) for value in INK[colour])
    return (r, g, b)


def draw_shape(draw: ImageDraw.ImageDraw, shape: str, box: tuple[int, int, int, int], fill: Rgb) -> None:
    """Draws one filled shape that touches all four sides of its box (pixels, ends included)."""
    x1, y1, x2, y2 = box
    wide, high = x2 - x1, y2 - y1
    if shape == "circle":
        draw.ellipse(box, fill=fill)
    elif shape == "rectangle":
        draw.rectangle(box, fill=fill)
    elif shape == "triangle":
        draw.polygon([(x1, y2), (x2, y2), (x1 + wide / 2, y1)], fill=fill)
    elif shape == "cross":
        draw.rectangle((x1 + wide * 0.36, y1, x1 + wide * 0.64, y2), fill=fill)
        draw.rectangle((x1, y1 + high * 0.36, x2, y1 + high * 0.64), fill=fill)
    else:
        # corners of a five-pointed star in a unit box
        rays = [
            (0.5, 0.0),
            (0.63, 0.36),
            (1.0, 0.38),
            (0.7, 0.61),
            (0.81, 1.0),
            (0.5, 0.77),
            (0.19, 1.0),
            (0.3, 0.61),
            (0.0, 0.38),
            (0.37, 0.36),
        ]
        draw.polygon([(x1 + x * wide, y1 + y * high) for x, y in rays], fill=fill)


def noisy(image: Image.Image, rng: Random, level: float) -> Image.Image:
    """Adds Gaussian noise of the given standard deviation (0..255)."""
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0.0, level, (SIZE, SIZE, 3))
    return Image.fromarray(np.clip(np.asarray(image, dtype=np.float32) + noise, 0, 255).astype(np.uint8))


def draw_scene(rng: Random, things: Sequence[Thing]) -> Image.Image:
    """A scene of small shapes on light paper with mild noise."""
    image = Image.new("RGB", (SIZE, SIZE), paper(rng))
    draw = ImageDraw.Draw(image)
    for thing in things:
        draw_shape(draw, thing.shape, thing.pixels, ink(rng, thing.colour))
    return noisy(image, rng, rng.uniform(0, 5))


def draw_large(rng: Random, thing: Thing) -> Image.Image:
    """A large shape on a pastel background; triangles of any form, as in easy-VQA."""
    image = Image.new("RGB", (SIZE, SIZE), paper(rng, 200))
    draw = ImageDraw.Draw(image)
    if thing.shape == "triangle" and rng.random() < 0.7:
        x1, y1, x2, y2 = thing.pixels
        points = [
            (rng.randint(x1, x2), y1),
            (x1, rng.randint(y1, y2)),
            (x2, rng.randint(y1, y2)),
            (rng.randint(x1, x2), y2),
        ]
        points.pop(rng.randrange(4))
        draw.polygon(points, fill=ink(rng, thing.colour, 22))
    else:
        draw_shape(draw, thing.shape, thing.pixels, ink(rng, thing.colour, 22))
    return noisy(image, rng, rng.uniform(0, 10))


@lru_cache(maxsize=1)
def _digit_images() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images, found.target


def pick_digit(rng: Random, held_out: bool) -> tuple[int, int]:
    """(index, digit) of a handwritten digit of the wanted split."""
    images, target = _digit_images()
    while True:
        index = rng.randrange(len(images))
        if digit_image_held_out(index) == held_out:
            return index, int(target[index])


def _bent(rng: Random, strokes: Image.Image, bend: float) -> Image.Image:
    """Strokes under a random affine map about their middle: turned, slanted, stretched by about `bend`."""
    a, b, d, e = (rng.gauss(mean, bend) for mean in (1.0, 0.0, 0.0, 1.0))
    half = strokes.width / 2
    matrix = (a, b, half - half * (a + b), d, e, half - half * (d + e))
    return strokes.transform(strokes.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _blended(rng: Random, index: int) -> NDArray[np.float64]:
    """A digit mixed with another training image of the same digit: new forms between those there are."""
    images, target = _digit_images()
    while True:
        other = rng.randrange(len(images))
        if target[other] == target[index] and not digit_image_held_out(other):
            share = rng.uniform(0.3, 0.7)
            return share * images[index] + (1 - share) * images[other]


def draw_digit(rng: Random, index: int, colour: str, bend: float = 0.0, blend: bool = False) -> Image.Image:
    """One of scikit-learn's handwritten digits, enlarged to 32..56 pixels, in coloured ink.

    For training only, ``bend`` varies its form and ``blend`` mixes it with another of the same digit.
    """
    side = rng.randint(32, 56)
    digit = _blended(rng, index) if blend else _digit_images()[0][index]
    # scikit-learn's digits are in 0..16
    strokes = Image.fromarray((digit * (255 / 16)).astype(np.uint8))
    large = strokes.resize((side, side), Image.Resampling.BILINEAR)
    mask = Image.new("L", (SIZE, SIZE), 0)
    mask.paste(
        _bent(rng, large, bend) if bend else large,
        (rng.randint(0, SIZE - side), rng.randint(0, SIZE - side)),
    )
    image = Image.new("RGB", (SIZE, SIZE), paper(rng))
    image.paste(Image.new("RGB", (SIZE, SIZE), ink(rng, colour)), mask=mask)
    return noisy(image, rng, rng.uniform(0, 5))


@lru_cache(maxsize=1)
def font() -> ImageFont.ImageFont:
    """Pillow's built-in bitmap font: six pixels a letter."""
    return ImageFont.load_default_imagefont()


def draw_document(rng: Random, kind: str, rows: Rows) -> Image.Image:
    """A receipt, form, table or chart: row r in the r-th quarter, the key in the left half, the value in the right."""
    if kind == "chart":
        from mmllm.miniature.world.charts import draw_chart

        return draw_chart(rng, rows)
    image = Image.new("RGB", (SIZE, SIZE), paper(rng))
    draw, letters = ImageDraw.Draw(image), font()
    dark = tuple(rng.randint(0, 110) for _ in range(3)) if rng.random() < 0.7 else ink(rng, rng.choice(COLOURS[:4]))
    fill = (dark[0], dark[1], dark[2])
    colon = ":" if kind == "form" and max(len(key) for key, _ in rows) < 5 else ""
    for row, (key, value) in enumerate(rows):
        top = CELL * row + 2 + rng.randint(-1, 2)
        draw.text((1 + rng.randint(0, 1), top), key + colon, fill=fill, font=letters)
        wide = 6 * len(value)
        # values stay in the right half: the cells there are labelled with them
        left = HALF + 1 + rng.randint(0, 1) if kind == "form" else SIZE - wide - rng.randint(2, 31 - wide)
        draw.text((left, top), value, fill=fill, font=letters)
        if kind == "table":
            draw.line((0, CELL * (row + 1) - 1, SIZE, CELL * (row + 1) - 1), fill=fill)
        if kind == "receipt" and key == "total":
            draw.line((1, CELL * row, SIZE - 2, CELL * row), fill=fill)
    if kind == "table":
        draw.line((HALF - 1, 0, HALF - 1, CELL * len(rows) - 1), fill=fill)
    return noisy(image, rng, rng.uniform(0, 5))
