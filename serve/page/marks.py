"""Boxes and points that an answer names, as fractions of the picture: every form that models write them in.

Forms with marks of their own say what they count in (PaliGemma's ``<loc0123>`` in 1024ths, Molmo's ``<point>`` in
hundredths, ...). Bare numbers do not, and are read on the scale that fits them all, unless the user names one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

SCALES = {"automatic": None, "0 to 1": 1.0, "0 to 100": 100.0, "0 to 1000": 1000.0, "pixels": 0.0}
"""Name -> what bare numbers are divided by; None: what fits them; 0: width and height of the picture."""
MOST = 60
"""Maximum number of marks of one answer."""
LETTERS = 40
"""Maximum number of letters of a label."""

_N = r"\s*(-?(?:\d+(?:\.\d*)?|\.\d+))\s*"
_BOX = re.compile(rf"[\[(]{_N},{_N},{_N},{_N}[\])]|\({_N},{_N}\)\s*,\s*\({_N},{_N}\)")
_POINT = re.compile(rf"[\[(]{_N},{_N}[\])]")
_NUMBERS = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)")
_OPEN, _CLOSE = (
    "(?:" + "|".join(map(re.escape, tags)) + ")"
    for tags in zip(
        ("<ref>", "</ref>"),
        ("<p>", "</p>"),
        ("<phrase>", "</phrase>"),
        ("<|ref|>", "<|/ref|>"),
        ("<|object_ref_start|>", "<|object_ref_end|>"),
        strict=True,
    )
)
_NAMED = rf"{_OPEN}\s*(.*?)\s*{_CLOSE}\s*"


@dataclass(frozen=True)
class Mark:
    """A box or a point in a picture."""

    label: str
    """What the answer says of it."""
    numbers: tuple[float, ...]
    """Left, top, right, bottom of a box; x, y of a point: fractions of width and height."""
    written: str
    """As it stands in the answer."""

    @property
    def is_box(self) -> bool:
        """Return whether it has an area."""
        return len(self.numbers) == 4


@dataclass(frozen=True)
class _Found:
    start: int
    end: int
    label: str
    numbers: tuple[float, ...]
    scale: float | None
    """None: on that of all bare numbers of the answer."""


_Order = tuple[int, ...]
_XYXY: _Order = (0, 1, 2, 3)
_YXYX: _Order = (1, 0, 3, 2)


def marks(text: str, size: tuple[int, int], scale: float | None = None) -> list[Mark]:
    """Return the boxes and points of an answer that lie in the picture, in the order in which they stand.

    ``size``: width and height of the picture in pixels; ``scale``: of bare numbers, see ``SCALES``.
    """
    found = sorted(_all(text), key=lambda one: one.start)
    bare = [one.numbers for one in found if one.scale is None]
    fitting = (_fitting(bare) if scale is None else scale) if bare else 1.0
    placed = []
    for one in found[:MOST]:
        by = fitting if one.scale is None else one.scale
        numbers = tuple(number / (by or size[place % 2]) for place, number in enumerate(one.numbers))
        if _is_inside(numbers):
            inside = tuple(min(1.0, max(0.0, number)) for number in numbers)
            placed.append(Mark(_shortened(one.label), inside, text[one.start : one.end].strip()))
    return placed


def _fitting(some: Sequence[tuple[float, ...]]) -> float:
    """Return the scale of bare numbers: the smallest of those that models are trained on that holds them all."""
    most = max(max(numbers) for numbers in some)
    return next((scale for scale in (1.0, 100.0, 1000.0) if most <= scale), 0.0)


def _is_inside(numbers: Sequence[float]) -> bool:
    slack = 0.05  # a sloppy box may reach out of its picture
    if min(numbers) < -slack or max(numbers) > 1 + slack:
        return False
    return len(numbers) == 2 or (numbers[2] > numbers[0] and numbers[3] > numbers[1])


def _shortened(label: str) -> str:
    label = " ".join(label.replace("**", "").split()).strip(" ,;:.-=>{[(\"'*`")
    return label if len(label) <= LETTERS else f"…{label[-LETTERS:]}"


def _all(text: str) -> Iterator[_Found]:
    """Yield what each form finds; what one has taken no other reads again."""
    taken = [False] * len(text)
    for form in _FORMS:
        for one in form(text):
            if not any(taken[one.start : one.end]):
                taken[one.start : one.end] = [True] * (one.end - one.start)
                yield one
    yield from _bare(text, taken)


def _tokens(pattern: str, count: int, scale: float, order: _Order, behind: bool) -> Callable[[str], Iterator[_Found]]:
    """Return a form of so many number tokens in a row; ``behind``: its label follows it, else it precedes it."""
    several = re.compile(rf"(?:{pattern}\s*){{{count}}}")
    one = re.compile(pattern)

    def form(text: str) -> Iterator[_Found]:
        last = 0
        for match in several.finditer(text):
            written = [float(number) for number in one.findall(match[0])]
            numbers = tuple(written[place] for place in order[:count])
            label = _following(text, match.end()) if behind else _preceding(text, match.start(), last)
            last = match.end()
            yield _Found(match.start(), match.end(), label, numbers, scale)

    return form


def _kosmos(text: str) -> Iterator[_Found]:
    """Two of 32 x 32 patches, of which the box reaches from the middle of one to that of the other (Kosmos-2)."""
    for match in re.finditer(r"<patch_index_(\d{4})><patch_index_(\d{4})>", text):
        corners = [divmod(int(patch), 32) for patch in match.groups()]
        numbers = tuple(value + 0.5 for row, col in corners for value in (col, row))
        yield _Found(match.start(), match.end(), _preceding(text, match.start(), 0), numbers, 32.0)


def _tagged(text: str) -> Iterator[_Found]:
    """``<box>``, ``<|box_start|>`` and ``<point>`` in thousandths (Qwen-VL, InternVL), ``<|det|>`` in 999ths."""
    tags = re.compile(
        r"<(box|point|\|box_start\||\|point_start\||\|det\|)>(.*?)<(?:/box|/point|\|box_end\||\|point_end\||\|/det\|)>",
        re.DOTALL,
    )
    for match in tags.finditer(text):
        named = re.search(rf"{_NAMED}$", text[: match.start()], re.DOTALL)
        label = named[1] if named else _preceding(text, match.start(), 0)
        inner = [_floats(one) for one in _BOX.finditer(match[2])] or [_floats(one) for one in _POINT.finditer(match[2])]
        for number, numbers in enumerate(inner):
            scale = 1.0 if max(numbers) <= 1 else 999.0 if "det" in match[1] else 1000.0
            # of several boxes between two tags each has a place of its own, so that none is taken for another's
            start = match.start() + number
            end = match.end() if number == len(inner) - 1 else start + 1
            yield _Found(start, end, label, numbers, scale)


def _percents(text: str) -> Iterator[_Found]:
    """``<point x="10.5" y="20" alt="cat">`` and ``<points x1=...>`` in hundredths (Molmo)."""
    for match in re.finditer(r"<points?\s([^>]*)>(?:(.*?)</points?>)?", text, re.DOTALL):
        words = dict(re.findall(r'(\w+)\s*=\s*"([^"]*)"', match[1]))
        label = words.get("alt") or match[2] or ""
        numbers = sorted(name[1:] for name in words if re.fullmatch(r"x\d*", name) and f"y{name[1:]}" in words)
        for place, number in enumerate(numbers):
            pair = [_NUMBERS.search(words[axis + number]) for axis in "xy"]
            if all(pair):
                start = match.start() + place
                end = match.end() if place == len(numbers) - 1 else start + 1
                yield _Found(start, end, label, tuple(float(one[0]) for one in pair if one), 100.0)


def _fields(text: str) -> Iterator[_Found]:
    """Fields of JSON objects: ``bbox_2d``, ``point_2d`` (Qwen2.5-VL), ``box_2d`` in thousandths, top first (Gemini)."""
    fields = re.compile(rf'"(bbox_2d|box_2d|bbox|box|point_2d|point)"\s*:\s*\[((?:{_N},){{1,3}}{_N})\]')
    for match in fields.finditer(text):
        written = tuple(float(number) for number in _NUMBERS.findall(match[2]))
        if len(written) not in (2, 4):
            continue
        begin, end = text.rfind("{", 0, match.start()), text.find("}", match.end())
        around = text[max(begin, 0) : len(text) if end < 0 else end]
        label = re.search(r'"(?:label|name|text|text_content|object)"\s*:\s*"([^"]*)"', around)
        gemini = match[1] == "box_2d" and len(written) == 4
        numbers = tuple(written[place] for place in _YXYX) if gemini else written
        yield _Found(match.start(), match.end(), label[1] if label else "", numbers, 1000.0 if gemini else None)


_FORMS: tuple[Callable[[str], Iterator[_Found]], ...] = (
    _tokens(r"<loc(\d{4})>", 4, 1024.0, _YXYX, behind=True),  # PaliGemma
    _tokens(r"<loc_(\d+)>", 4, 1000.0, _XYXY, behind=False),  # Florence-2
    _tokens(r"<(\d{1,3})>", 4, 100.0, _XYXY, behind=False),  # MiniGPT-v2
    _kosmos,
    _tagged,
    _percents,
    _fields,
)


def _bare(text: str, taken: Sequence[bool]) -> Iterator[_Found]:
    """Yield brackets of four numbers; brackets of two where they are fractions, or where the answer is nothing else."""
    free = "".join(" " if used else letter for letter, used in zip(text, taken, strict=True))
    last = 0
    for match in _BOX.finditer(free):
        yield _Found(match.start(), match.end(), _preceding(free, match.start(), last), _floats(match), None)
        last = match.end()
    rest = _BOX.sub(lambda match: " " * len(match[0]), free)
    alone = not re.search(r"\w", _POINT.sub("", rest))
    for match in _POINT.finditer(rest):
        fractions = all(0 <= number <= 1 for number in _floats(match)) and "." in match[0]
        if fractions or alone:
            yield _Found(match.start(), match.end(), _preceding(rest, match.start(), 0), _floats(match), None)


def _floats(match: re.Match[str]) -> tuple[float, ...]:
    return tuple(float(number) for number in match.groups() if number is not None)


def _preceding(text: str, start: int, last: int) -> str:
    """Return the words in front of a mark: of its line, behind the mark before it, without tags."""
    begin = max(last, text.rfind("\n", 0, start) + 1, text.rfind("]", 0, start) + 1)
    return re.sub(r"<[^<>]*>", " ", text[begin:start])


def _following(text: str, end: int) -> str:
    """Return the words behind a mark, up to what separates it from the next."""
    return re.split(r"[;\n<]", text[end:], maxsplit=1)[0]
