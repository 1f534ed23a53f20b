"""Where a value is, as the run itself says: a question for each, where its training taught it to answer with boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmllm.datasets.boxes import Box, Boxes
from mmllm.errors import MmllmError, TooLongError
from mmllm.evaluation.metrics.boxes import parse_box
from mmllm.generation.generator import Encoded
from mmllm.generation.model import Model
from mmllm.generation.sampling import Sampling
from mmllm.messages import placeholders
from mmllm.recipe.models import Recipe

VALUE = "{value}"
MOST_TOKENS = 48
"""Of an answer that is a box."""


@dataclass(frozen=True)
class Grounding:
    """How a run is asked for boxes."""

    question: str
    """With ``{value}``."""
    scale: float
    """Of the boxes it writes: 1, 100 or 1000; ``<loc>`` tokens say their own."""
    fit: str
    """How its encoder brings a picture to a square: squash, pad or crop."""

    @classmethod
    def of(cls, recipe: Recipe, question: str, scale: float) -> Grounding:
        """How the run of a recipe is asked.

        Raises:
            MmllmError: the question has no place for the value, the scale is none, or the data of the run count their
                boxes in more than one way.
        """
        if VALUE not in question:
            raise MmllmError(f'--locate "{question}" does not say what is looked for; write {VALUE} where it stands.')
        if scale <= 0:
            raise MmllmError(f"--box-scale {scale:g}: it is above 0; boxes count up to 1, 100 or 1000.")
        given = [part.args["boxes"] for part in recipe.data.values() if isinstance(part.args.get("boxes"), dict)]
        fits = {Boxes.of(words).fit for words in given} or {"squash"}
        if len(fits) > 1:
            raise MmllmError(f"--locate: the run's data count boxes in several ways (fit: {', '.join(sorted(fits))}).")
        return cls(question, scale, fits.pop())

    def ask(self, model: Model, asked: Sequence[tuple[Path, tuple[int, int], str]]) -> list[list[Box] | None]:
        """The box that the run names for each (picture, its size in pixels, value): fractions of the picture.

        No box where it names none, or one without area inside of the picture; None where the question is too long.
        """
        encoded: list[Encoded | None] = []
        for picture, _, value in asked:
            text = placeholders.escape(self.question.replace(VALUE, value), list(model.model.inputs))
            try:
                encoded.append(model.encode([{"role": "user", "content": parts(picture, text)}]))
            except TooLongError:
                encoded.append(None)
        said = iter(model.generator.complete([one for one in encoded if one is not None], Sampling(MOST_TOKENS)))
        return [
            None if one is None else self.in_picture(parse_box(next(said).text, self.scale), size)
            for one, (_, size, _) in zip(encoded, asked, strict=True)
        ]

    def in_picture(self, box: Box | None, size: tuple[int, int]) -> list[Box]:
        """A box of what the encoder sees as fractions of the picture."""
        if box is None:
            return []
        width, height = size
        side = {"squash": None, "pad": max(size), "crop": min(size)}[self.fit]
        wide, high = size if side is None else (side, side)
        left, top = (wide - width) / 2, (high - height) / 2
        x1, y1, x2, y2 = box
        across, down = [(x * wide - left) / width for x in (x1, x2)], [(y * high - top) / height for y in (y1, y2)]
        cut = [min(1.0, max(0.0, side)) for side in (across[0], down[0], across[1], down[1])]
        return [(cut[0], cut[1], cut[2], cut[3])] if cut[2] > cut[0] and cut[3] > cut[1] else []


def parts(picture: Path, text: str) -> list[dict[str, object]]:
    """A message's parts: a picture and a text, as in the prompts of benchmarks."""
    return [{"type": "image_url", "image_url": {"url": str(picture)}}, {"type": "text", "text": text}]
