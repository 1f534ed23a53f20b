"""Training pictures with what is known of each cell: labels for dense supervision, words for contrastive training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmllm.miniature.world.documents import Rows, document
from mmllm.miniature.world.render import draw_digit, draw_document, draw_large, draw_scene, pick_digit
from mmllm.miniature.world.scenes import CELL, Thing, large, scene
from mmllm.miniature.world.splits import ink_held_out
from mmllm.miniature.world.words import (
    CITIES,
    COLOURS,
    DAYS,
    DOCUMENTS,
    EASY_SHAPES,
    FIELDS,
    ITEMS,
    NAMES,
    NUMBERS,
    PLACES,
    SHAPES,
)

KEYS = (*ITEMS, *NAMES, *FIELDS, "total")
VALUES = (*NUMBERS, *NAMES, *CITIES, *DAYS)
KINDS = ("scene", "digit", *DOCUMENTS)
# Class names of each label, in column order of a cell's label row; class 0 of most is "nothing of the sort".
LABELS: dict[str, tuple[str, ...]] = {
    "place": PLACES,
    "color": ("nothing", *COLOURS),
    "shape": ("nothing", *SHAPES),
    "digit": ("nothing", *(str(n) for n in range(10))),
    "key": ("nothing", *KEYS),
    "value": ("nothing", *VALUES),
    "kind": KINDS,
}
COLUMN = {name: index for index, name in enumerate(LABELS)}
CHARTS, HELD_OUT_CHARTS = 1500, 60
BEND = 0.12


@dataclass(frozen=True)
class Picture:
    """One picture: pixels uint8[64, 64, 3], labels int64[16, 7] by LABELS, its sort, and its caption's words."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    sort: str
    caption: str


def _labels(kind: str) -> NDArray[np.int64]:
    labels = np.zeros((len(PLACES), len(LABELS)), dtype=np.int64)
    labels[:, COLUMN["place"]] = np.arange(len(PLACES))
    labels[:, COLUMN["kind"]] = KINDS.index(kind)
    return labels


def _thing(labels: NDArray[np.int64], cell: int, thing: Thing) -> None:
    labels[cell, COLUMN["color"]] = LABELS["color"].index(thing.colour)
    labels[cell, COLUMN["shape"]] = LABELS["shape"].index(thing.shape)


def scene_picture(rng: Random, held_out: bool) -> Picture:
    """A scene of one to six things."""
    things, labels = scene(rng, rng.randint(1, 6), held_out), _labels("scene")
    for thing in things:
        _thing(labels, PLACES.index(thing.place), thing)
    words = ", ".join(" ".join(thing.words) for thing in things)
    return Picture(np.asarray(draw_scene(rng, things)), labels, "scene", words)


def large_picture(rng: Random, held_out: bool) -> Picture:
    """One large shape; every cell that it covers by a seventh, and the cell of its middle, is labelled with it."""
    thing, labels = large(rng, held_out, EASY_SHAPES), _labels("scene")
    x1, y1, x2, y2 = thing.pixels
    for cell, place in enumerate(PLACES):
        left, top = CELL * "abcd".index(place[0]), CELL * (int(place[1]) - 1)
        wide = min(x2, left + CELL - 1) - max(x1, left) + 1
        high = min(y2, top + CELL - 1) - max(y1, top) + 1
        if place == thing.place or (wide > 0 and high > 0 and wide * high >= CELL * CELL / 7):
            _thing(labels, cell, thing)
    return Picture(np.asarray(draw_large(rng, thing)), labels, "large", f"large {thing.colour} {thing.shape}")


def digit_picture(rng: Random, held_out: bool, bend: float = 0.0, blend: bool = False) -> Picture:
    """A handwritten digit, its form varied by bend and blend; all cells are labelled with it."""
    index, number = pick_digit(rng, held_out)
    colour = rng.choice([c for c in COLOURS if ink_held_out(number, c) == held_out])
    labels = _labels("digit")
    labels[:, COLUMN["digit"]] = number + 1
    return Picture(np.asarray(draw_digit(rng, index, colour, bend, blend)), labels, "digit", f"digit {number}")


def _document_picture(image: Image.Image, kind: str, rows: Rows) -> Picture:
    labels = _labels(kind)
    for row, (key, value) in enumerate(rows):
        labels[4 * row : 4 * row + 4, COLUMN["key"]] = LABELS["key"].index(key)
        labels[4 * row : 4 * row + 4, COLUMN["value"]] = LABELS["value"].index(value)
    caption = ", ".join((kind, *(" ".join(row) for row in rows)))
    return Picture(np.asarray(image), labels, "document", caption)


@lru_cache(maxsize=4)
def _charts(seed: int, held_out: bool, n: int) -> tuple[Picture, ...]:
    rng = Random(f"charts/{seed}/{held_out}")
    rows = [document(rng, held_out, "chart")[1] for _ in range(n)]
    return tuple(_document_picture(draw_document(rng, "chart", some), "chart", some) for some in rows)


def document_picture(rng: Random, held_out: bool) -> Picture:
    """A document; charts come from a fixed stock, for matplotlib is slow."""
    kind, rows = document(rng, held_out)
    if kind == "chart":
        return rng.choice(_charts(0, held_out, HELD_OUT_CHARTS if held_out else CHARTS))
    return _document_picture(draw_document(rng, kind, rows), kind, rows)


SORTS = {"scene": 0.3, "large": 0.12, "digit": 0.13, "document": 0.45}
MAKE = {"scene": scene_picture, "large": large_picture, "digit": digit_picture, "document": document_picture}


def pictures(rng: Random, n: int, held_out: bool, sort: str | None = None) -> list[Picture]:
    """n pictures of one sort, or of all sorts by their shares."""
    sorts = [sort] * n if sort else rng.choices(list(SORTS), list(SORTS.values()), k=n)
    return [MAKE[name](rng, held_out) for name in sorts]


@dataclass(frozen=True)
class Phases:
    """Steps at which training turns to digits: 1437 handwritten ones are few, and reading unseen ones forms last."""

    digits_from: int
    """From this step on half of the pictures are digits in varied forms."""
    blends_from: int
    """From this step on half of those are blends of two images of one digit."""
    steps: int


def lesson(seed: int, step: int, n: int, phases: Phases) -> list[Picture]:
    """The training pictures of one step, a pure function of seed and step."""
    rng = Random(f"{seed}/{step}")
    if step < phases.digits_from:
        return pictures(rng, n, held_out=False)
    blends = [step >= phases.blends_from and index % 2 == 0 for index in range(n // 2)]
    return [digit_picture(rng, False, BEND, blend) for blend in blends] + pictures(rng, n - n // 2, held_out=False)


def share_of_peak(step: int, phases: Phases, cooldown: float) -> float:
    """Learning rate as a share of its peak: warm-up, constant, linear to zero; then again lower in each later phase."""
    if step < phases.digits_from:
        return min(1.0, (step + 1) / 100, (phases.digits_from - step) / (cooldown * phases.digits_from))
    blends = step >= phases.blends_from
    start, end = (phases.blends_from, phases.steps) if blends else (phases.digits_from, phases.blends_from)
    at, rest = step - start, end - start
    return 0.6 * min(1.0, (at + 1) / 50, (rest - at) / (0.7 * rest))


def to_tensors(batch: list[Picture], mean: float = 0.5, std: float = 0.5) -> tuple[Tensor, Tensor]:
    """pixels float[N, 3, 64, 64], normalised; labels int64[N, 16, 7]."""
    pixels = torch.from_numpy(np.stack([picture.pixels for picture in batch])).permute(0, 3, 1, 2).float()
    return (pixels / 255 - mean) / std, torch.from_numpy(np.stack([picture.labels for picture in batch]))
