"""Boxes written in conversations, rewritten to what the recipe's encoder sees of the picture; for ``chat.py``.

LLaVA's data write fractions of the picture padded to a square, Qwen's and InternVL's thousandths of the picture,
PaliGemma's ``<loc>`` tokens, COCO's pixels. An encoder that squashes, pads or crops sees a box elsewhere.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmllm.errors import MediaError, MmllmError, SampleError
from mmllm.types import Message, Stored

FORMS = {
    "xyxy_1": "fractions, left top right bottom (LLaVA)",
    "xyxy_1000": "thousandths, left top right bottom (Qwen-VL, InternVL)",
    "xyxy_pixels": "pixels, left top right bottom (Qwen2.5-VL)",
    "xywh_pixels": "pixels, left top width height (COCO)",
    "loc_tokens": "<locNNNN> of 1024, top left bottom right (PaliGemma)",
}
"""Word of ``from`` -> how a box is written."""
WRITTEN = ("xyxy_1", "loc_tokens")
"""Words of ``to``: fractions with three decimals, or four tokens that ``llm.tokens`` may add."""
SQUARES = ("none", "pad")
FITS = ("squash", "pad", "crop")
WORDS = ("from", "to", "square", "fit")

_NUMBER = r"\s*(-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)\s*"
_FOUR = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_PAIRS = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)")
_TAGGED = re.compile(r"(?:<box>|<\|box_start\|>)\s*(.*?)\s*(?:</box>|<\|box_end\|>)", re.DOTALL)
_LISTED = re.compile(r"\[\s*(\[.*\])\s*\]", re.DOTALL)
"""A list of boxes, as InternVL writes even one."""
_SLACK = 0.05
"""Share of the longer side by which a sloppy box may reach out of its picture."""
_LOC = re.compile("".join(r"<loc(\d{4})>" for _ in range(4)))

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Boxes:
    """Rewrites every box of a conversation to ``[x1,y1,x2,y2]``: fractions of what the encoder sees, three decimals.

    Or, ``to: loc_tokens``, to ``<locNNNN>`` of 1024 for top, left, bottom and right, as PaliGemma writes them.
    """

    form: str
    """How they are written, of ``FORMS``."""
    square: str = "none"
    """``pad``: they count in the picture padded to a square (LLaVA's ``image_aspect_ratio: pad``)."""
    fit: str = "squash"
    """How the recipe's encoder brings a picture to its square."""
    to: str = "xyxy_1"
    """How they are to be written, of ``WRITTEN``."""

    @classmethod
    def of(cls, words: Mapping[str, Any]) -> Boxes:
        """Read the recipe's ``boxes: {from, to, ...}``; MmllmError names the word at fault and what is known."""
        unknown = [word for word in words if word not in WORDS]
        if unknown:
            raise MmllmError(f"boxes: unknown word {unknown[0]!r}; known: {', '.join(WORDS)}")
        plain = {"square": "none", "fit": "squash", "to": "xyxy_1"}
        made = cls(str(words.get("from")), **{word: str(words.get(word, value)) for word, value in plain.items()})
        for word, value, known in (
            ("from", made.form, FORMS),
            ("to", made.to, WRITTEN),
            ("square", made.square, SQUARES),
            ("fit", made.fit, FITS),
        ):
            if value not in known:
                raise MmllmError(f'boxes.{word}: "{value}" is unknown; known: {", ".join(known)}')
        return made

    @property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        return (_LOC,) if self.form == "loc_tokens" else (_FOUR, _PAIRS)

    def are_in(self, messages: Sequence[Message]) -> bool:
        """Whether a text has a box of this form."""
        return any(pattern.search(message.text) for pattern in self._patterns for message in messages)

    def rewrite(self, messages: Sequence[Message], media: Mapping[str, Sequence[Any]]) -> tuple[Message, ...]:
        """Messages with their boxes rewritten; SampleError where one cannot be placed, MediaError for its picture."""
        messages = [replace(message, text=_TAGGED.sub(_untagged, message.text)) for message in messages]
        if not self.are_in(messages):
            return tuple(messages)
        items = [item for found in media.values() for item in found]
        if len(items) != 1:
            raise SampleError(f"boxes beside {len(items)} media; of one picture alone it is known what they count in")
        size = size_of(items[0])

        def moved(match: re.Match[str]) -> str:
            numbers = [float(number) for number in match.groups()]
            written = (numbers[0], numbers[1], numbers[2], numbers[3])
            self._check(written, size)
            return self.text_of(written, size)

        written = list(messages)
        for pattern in self._patterns:
            written = [replace(message, text=pattern.sub(moved, message.text)) for message in written]
        return tuple(written)

    def text_of(self, numbers: Box, size: tuple[int, int]) -> str:
        """One box as it is to be written; ``size`` (width, height) of its picture. SampleError as :meth:`seen`."""
        return self._as_text(self.seen(self.pixels(numbers, size), size))

    def _as_text(self, box: Box) -> str:
        """A box in fractions as it is to be written."""
        if self.to == "xyxy_1":
            return "[" + ",".join(f"{value:.3f}" for value in box) + "]"
        left, top, right, bottom = (min(1023, int(value * 1024)) for value in box)
        return "".join(f"<loc{value:04d}>" for value in (top, left, bottom, right))

    def _check(self, numbers: Box, size: tuple[int, int]) -> None:
        """SampleError where the numbers of a box are those of another form, which would only move it elsewhere."""
        found = self.pixels(numbers, size)
        slack = _SLACK * max(size)
        outside = min(found) < -slack or found[2] > size[0] + slack or found[3] > size[1] + slack
        fractions = self.form in ("xyxy_1000", "xyxy_pixels", "xywh_pixels") and max(numbers) <= 1
        if outside or fractions:
            raise SampleError(
                f"the box {[round(value, 3) for value in numbers]} is "
                f"{'in fractions' if fractions else f'not inside its picture of {size[0]} x {size[1]}'}; is "
                f"`from: {self.form}` right?"
            )

    def pixels(self, numbers: Box, size: tuple[int, int]) -> Box:
        """A box as it is written -> pixels of the upright picture of ``size`` (width, height)."""
        width, height = size
        a, b, c, d = numbers
        if self.form == "xywh_pixels":
            return a, b, a + c, b + d
        if self.form == "xyxy_pixels":
            return a, b, c, d
        if self.form == "loc_tokens":
            a, b, c, d = b, a, d, c
        scale = {"xyxy_1": 1.0, "xyxy_1000": 1000.0, "loc_tokens": 1024.0}[self.form]
        side = max(width, height)
        wide, high = (side, side) if self.square == "pad" else (width, height)
        left, top = (wide - width) // 2, (high - height) // 2
        return a / scale * wide - left, b / scale * high - top, c / scale * wide - left, d / scale * high - top

    def seen(self, box: Box, size: tuple[int, int]) -> Box:
        """Pixels of the picture -> fractions of the square that the encoder sees, cut at its borders.

        Raises:
            SampleError: the box has no area, or lies outside of what is seen.
        """
        width, height = size
        wide, high = size
        if self.fit != "squash":
            wide = high = max(size) if self.fit == "pad" else min(size)
        left, top = (wide - width) // 2, (high - height) // 2
        x1, y1, x2, y2 = box
        found = ((x1 + left) / wide, (y1 + top) / high, (x2 + left) / wide, (y2 + top) / high)
        cut = tuple(min(1.0, max(0.0, value)) for value in found)
        if cut[2] <= cut[0] or cut[3] <= cut[1]:
            raise SampleError(
                f"the box {[round(value, 1) for value in box]} (pixels of a {width} x {height} picture) has no area in "
                f"what the encoder sees (fit: {self.fit}); is `from: {self.form}` right?"
            )
        return cut[0], cut[1], cut[2], cut[3]


def _untagged(match: re.Match[str]) -> str:
    """What stands between the tags of boxes, a list of them without its brackets."""
    inner = match[1]
    if not any(pattern.search(inner) for pattern in (_FOUR, _PAIRS, _LOC)):
        raise SampleError(f"{match[0][:80]} is no box that is known; a box is [x, y, x, y] or (x, y),(x, y)")
    listed = _LISTED.fullmatch(inner)
    return listed[1] if listed else inner


def size_of(item: Any) -> tuple[int, int]:
    """Width and height of a picture as it stands upright; MediaError where it cannot be read."""
    from PIL import Image

    from mmllm.files.pictures import upright_size

    found = item.load() if isinstance(item, Stored) else item
    try:
        with Image.open(io.BytesIO(found) if isinstance(found, bytes) else Path(found)) as image:
            return upright_size(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise MediaError(f"the picture that boxes count in cannot be read: {error}") from error
