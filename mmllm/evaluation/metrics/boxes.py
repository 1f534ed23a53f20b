"""Boxes: read one from what a model wrote, on the scale its benchmark declares, and compare it with the reference."""

from __future__ import annotations

import re
from typing import Final

from mmllm.errors import MmllmError

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2: left, top, right, bottom, as fractions of the image's width and height."""

# A number that is not part of a word, so the 2 of "bbox_2d" or "x2=" does not count.
_NUMBER: Final = r"(?<![\w.])-?(?:\d+(?:\.\d*)?|\.\d+)(?![\w])"
_GAP: Final = r"[\s,;]+"
_FOUR: Final = re.compile(rf"[\[(<{{]\s*({_NUMBER}){_GAP}({_NUMBER}){_GAP}({_NUMBER}){_GAP}({_NUMBER})\s*[\])>}}]")
_PAIR: Final = rf"[\[(]\s*({_NUMBER}){_GAP}({_NUMBER})\s*[\])]"
_PAIRS: Final = re.compile(rf"{_PAIR}\s*[,;]?\s*(?:to\s*)?{_PAIR}")
_TOKENS: Final = re.compile(r"<\s*(\d+)\s*>\s*<\s*(\d+)\s*>\s*<\s*(\d+)\s*>\s*<\s*(\d+)\s*>")
_LOC: Final = re.compile("".join(r"<loc(\d{4})>" for _ in range(4)))
_ANY: Final = re.compile(_NUMBER)


def parse_box(text: str, scale: float | tuple[float, float] = 1.0) -> Box | None:
    """The first box in a text, divided by the scale, or None where there is none.

    Read are ``[x1,y1,x2,y2]`` (any bracket), ``(x1,y1),(x2,y2)``, ``<12><34><56><78>`` and, where a text holds
    exactly four numbers, those; and ``<locNNNN>`` of 1024 for top, left, bottom and right, which say their own scale.
    ``scale`` is what the benchmark declares: 1, 100, 1000, or (width, height) in pixels;
    it is never guessed from the numbers.
    """
    width, height = scale if isinstance(scale, tuple) else (scale, scale)
    if width <= 0 or height <= 0:
        raise MmllmError(f"A box scale has to be positive and is {scale}.")
    located = _LOC.search(text)
    if located is not None:
        top, left, bottom, right = (int(number) / 1024 for number in located.groups())
        return left, top, right, bottom
    found = [match for pattern in (_FOUR, _PAIRS, _TOKENS) if (match := pattern.search(text))]
    if found:
        # the first in the text, whichever form it has
        numbers = [float(number) for number in min(found, key=lambda match: match.start()).groups()]
    else:
        numbers = [float(number) for number in _ANY.findall(text)]
        if len(numbers) != 4:
            return None
    x1, y1, x2, y2 = numbers
    return x1 / width, y1 / height, x2 / width, y2 / height


def iou(one: Box, two: Box) -> float:
    """Intersection over union, in 0..1; a degenerate or inverted box has no area and overlaps with nothing."""
    if _area(one) == 0.0 or _area(two) == 0.0:
        return 0.0
    shared = _area((max(one[0], two[0]), max(one[1], two[1]), min(one[2], two[2]), min(one[3], two[3])))
    return shared / (_area(one) + _area(two) - shared)


def box_hit(prediction: Box | None, reference: Box, threshold: float = 0.5) -> float:
    """1 where a box was read and its IoU with the reference is at least the threshold, else 0."""
    return float(prediction is not None and iou(prediction, reference) >= threshold)


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
