"""A document's text layer: its texts with their boxes, as an OCR gives them, in which extracted values are found again.

A value is looked for as it stands: without case and double blanks, whole words and whole numbers, also across texts
that follow each other. Its box is around all texts that have a part of it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from mmllm.datasets.boxes import Box
from mmllm.datasets.scanned import Text, sroie_lines
from mmllm.errors import MmllmError

_NOT_INSIDE = (r"(?<!\w)(?<!\d[.,])", r"(?!\w)(?![.,]\d)")
"""Around a value: 9.00 is in "9.00," and neither in 19.00 nor in 9.001."""


def layer_file(folder: Path, picture: Path) -> Path:
    """``<name>.json`` or ``<name>.csv`` of a folder; MmllmError where there is neither."""
    files = [folder / f"{picture.stem}{ending}" for ending in (".json", ".csv")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise MmllmError(f"{picture.name} has no text layer: there is neither {files[0]} nor {files[1]}")
    return found


def read_layer(folder: Path, picture: Path) -> list[Text]:
    """The texts of a picture in pixels: a list of JSON, or SROIE's lines of eight numbers and a text.

    Raises:
        MmllmError: there is no file of them, or it has another form.
    """
    file = layer_file(folder, picture)
    try:
        if file.suffix == ".csv":
            return sroie_lines(file)
        return [_text(one) for one in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise MmllmError(
            f'the text layer {file} has another form ({error}); it is [{{"text": "...", "box": [left, top, '
            "right, bottom]}] in pixels"
        ) from error


def places_of(value: Any, texts: Sequence[Text]) -> list[Box]:
    """Boxes, in pixels, of every place where a value stands in the texts; none where it does not."""
    words = str(value).lower().split()
    if not words or value is None or isinstance(value, bool):
        return []
    shown = [" ".join(one.text.lower().split()) for one in texts]
    starts = list(accumulate((len(one) + 1 for one in shown), initial=0))
    before, behind = _NOT_INSIDE
    pattern = re.compile(before + r"\s+".join(map(re.escape, words)) + behind)
    found = []
    for match in pattern.finditer(" ".join(shown)):
        first, last = bisect_right(starts, match.start()) - 1, bisect_right(starts, match.end() - 1) - 1
        found.append(_around([one.box for one in texts[first : last + 1] if one.text.strip()]))
    return found


def _around(boxes: Sequence[Box]) -> Box:
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _text(row: Any) -> Text:
    left, top, right, bottom = (float(number) for number in row["box"])
    return Text(str(row["text"]), (left, top, right, bottom))
