"""Answers with what they are about: the question, its media with boxes drawn, what was said and what was wanted."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from mmllm.reporting.media import SAID, WANTED, Drawn, thumbnail

if TYPE_CHECKING:
    from mmllm.evaluation.benchmarks.base import Benchmark
    from mmllm.evaluation.predictions import Prediction
    from mmllm.reporting.asked import Asked

SHOWN = 6
"""Answers of a group that are shown."""
ITEMS = 4
"""Media of a question that are shown."""


def spread(some: Sequence[Prediction], most: int = SHOWN) -> list[Prediction]:
    """A few of them, evenly over the file, so that no kind that stands first fills the page."""
    step = max(1, len(some) // most)
    return list(some[::step][:most])


def article(asked: Asked | None, answers: Sequence[Prediction], labels: Sequence[str] = ()) -> str:
    """A question with one answer, or with those of several runs under their ``labels``.

    ``asked``: its benchmark and questions, where they can be opened; then its media are shown.
    """
    one = answers[0]
    question = None if asked is None else asked.questions.get(one.name)
    benchmark = None if asked is None else asked.benchmark
    boxes = _boxes(benchmark, answers)
    media = [] if question is None else [(key, item) for key, items in question.sample.media.items() for item in items]
    # a box is drawn on the last item, which is what the question is about where others are shown before it
    last = min(len(media), ITEMS) - 1
    shown = "".join(
        thumbnail(key, item, boxes if number == last else ()) for number, (key, item) in enumerate(media[:ITEMS])
    )
    marks = "".join(f"<small>{escape(mark)}</small>" for mark in _marks(boxes) if shown)
    wanted = ", ".join(dict.fromkeys(map(str, one.references)))
    lines = "".join(
        f"<p>{f'{escape(label)}: ' if label else ''}{_said(answer)}</p>"
        for label, answer in zip(labels or [""] * len(answers), answers, strict=True)
    )
    kind = f"; {escape(one.kind)}" if one.kind else ""
    return (
        f"<article>{shown}{marks}<p>{escape(one.question)}</p>{lines}"
        f"<p class=summary>wanted {escape(wanted)}{kind}</p></article>"
    )


def _said(one: Prediction) -> str:
    if one.error is not None:
        return f"<strong><em>could not be asked: {escape(one.error)}</em></strong>"
    sure = "" if one.confidence is None else f" <small>sure: {one.confidence:.2f}</small>"
    return f"<strong>{escape(one.prediction) or '<em>nothing</em>'}</strong>{sure}"


def _boxes(benchmark: Benchmark | None, answers: Sequence[Prediction]) -> list[Drawn]:
    """The box that is wanted and those that were said, where answers are boxes."""
    wanted = answers[0].references
    if len(wanted) != 4 or not all(isinstance(one, float) for one in wanted):
        return []
    found = [Drawn((wanted[0], wanted[1], wanted[2], wanted[3]), WANTED)]
    for number, one in enumerate(answers):
        said = None if benchmark is None else benchmark.box(one.prediction)
        if said is not None:
            found.append(Drawn(said, SAID[number % len(SAID)]))
    return found


def _marks(boxes: Sequence[Drawn]) -> list[str]:
    """What the colours of the boxes mean."""
    if not boxes:
        return []
    said = [one.colour.name for one in boxes[1:]]
    return [f"{WANTED.name}: wanted{f'; {chr(44).join(said)}: said' if said else ''}"]
