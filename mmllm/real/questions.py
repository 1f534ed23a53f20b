"""easy-VQA's training questions by what they ask, and a part of their pictures held out to choose a recipe by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmllm.evaluation.benchmarks.easy_vqa import kind_of
from mmllm.real.captions import captions
from mmllm.real.rows import conversation, write_rows

CAPTION_QUESTION = "Describe the picture."
HELD_OUT = 20
"""Every so many-th training picture is for choosing; none of its questions is learned from."""
FILES = {"colour": "colours.jsonl", "shape": "shapes.jsonl", "yes/no": "yes_no.jsonl"}
"""Kind of question -> file of its conversations."""
LAST = "held_out.jsonl"
"""File that is written when all others are there."""


def write_questions(out: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Write ``captions.jsonl``, a file for each kind, and :data:`LAST` for the benchmark ``qa``.

    ``rows``: [question, answer, picture] of the training split, whose pictures lie in ``out/train/images``.
    """
    learned = [row for row in rows if row[2] % HELD_OUT]
    write_rows(
        out / "captions.jsonl",
        (
            conversation(f"{image}", CAPTION_QUESTION, caption, _picture(image))
            for image, caption in captions(learned).items()
        ),
    )
    for kind, file in FILES.items():
        write_rows(
            out / file,
            (
                conversation(f"{image}:{question}", question, answer, _picture(image))
                for question, answer, image in learned
                if kind_of(question, [answer]).startswith(kind)
            ),
        )
    write_rows(
        out / LAST,
        (
            {"question": question, "answer": answer, "image": _picture(image), "kind": kind_of(question, [answer])}
            for question, answer, image in rows
            if not image % HELD_OUT
        ),
    )


def _picture(image: int) -> str:
    return f"train/images/{image}.png"
