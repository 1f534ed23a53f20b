"""What the encoders of a served model are given of a media item, and weights of its places laid out as maps over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from mmllm.drawing.data_url import data_url
from mmllm.errors import MediaError

if TYPE_CHECKING:
    from PIL import Image

    from mmllm.batches.sample import MediaSpan
    from mmllm.inspection.views import View
    from mmllm.model.inputs import Input

Captioned = tuple[str, "Image.Image"]


@dataclass(frozen=True)
class Map:
    """Weights of an item's places, as far as they lie in one picture or stretch of time."""

    caption: str
    picture: Image.Image | None
    """What the encoder was given there."""
    weights: list[list[float]]
    """Rows of columns."""

    def body(self) -> dict[str, Any]:
        """Return it as JSON: the picture as a data URL."""
        url = None if self.picture is None else data_url(self.picture)
        return {"caption": self.caption, "url": url, "weights": self.weights}


def views(entry: Input, media: Any) -> list[View]:
    """Return an item as each encoder of its input is given it; MediaError where it cannot be read."""
    from mmllm.inspection.views import view  # here: it draws with matplotlib, which a server else does without

    return [
        view(name if len(entry.processors) > 1 else "", processor, media, processor.read(processor.told(media)))
        for name, processor in entry.processors.items()
    ]


def seen_body(entry: Input, media: Any) -> dict[str, Any]:
    """Return the answer to ``POST /seen``; MediaError where the item cannot be read."""
    n_tokens = sum(span.length for span in entry.layout(entry.measure(media)))
    shown = []
    for one in views(entry, media):
        pictures = [{"caption": caption, "url": data_url(picture)} for caption, picture in one.pictures]
        title = f"{one.title}: " if one.title else ""
        caption = f"{title}{one.facts}; {n_tokens} places of the LLM"
        shown.append({"caption": caption, "pictures": pictures, "text": one.text})
    return {"object": "seen", "views": shown}


def maps(
    modality: str, spans: Sequence[MediaSpan], weights: Sequence[float], pictures: Sequence[Captioned]
) -> list[Map]:
    """Lay the weights of one item's places over what its encoder was given.

    ``weights``: of all positions of the conversation; ``pictures``: see ``inspection.views``. MediaError where its
    places are none in a picture.
    """
    taken = [span for span in spans if span.length]
    if not taken:
        raise MediaError("is read inside the model's layers, not at places among the words, so no word looks at it")
    grids = [_grid(weights[span.start : span.start + span.length], span.grid) for span in taken]
    if modality == "image":
        return _over_pictures(grids, pictures)
    steps = [step for grid in grids for step in grid]
    if all(len(step) == 1 for step in steps):  # places in time alone, or queries that stand for a stretch of it
        return [Map("", None, [[sum(step[0]) for step in steps]])]
    chosen = _one_each(steps, pictures)
    return [
        Map(caption or f"step {number}", picture, step)
        for number, ((caption, picture), step) in enumerate(zip(chosen, steps, strict=True), 1)
    ]


def _over_pictures(grids: list[list[list[list[float]]]], pictures: Sequence[Captioned]) -> list[Map]:
    planes = [step for grid in grids for step in grid]
    rows = [plane[0] for plane in planes if len(plane) == 1]
    if len(rows) == len(planes) > 1 and len(pictures) == 1 and len({len(row) for row in rows}) == 1:
        planes = [rows]  # text stands between the rows of one picture
    if any(len(plane) == 1 < len(plane[0]) for plane in planes) and len(planes) == len(pictures):
        raise MediaError(
            "becomes queries that each stand for all of it (a resampler), so its tokens have no places in it to look at"
        )
    chosen = _one_each(planes, pictures)
    return [Map(caption, picture, plane) for (caption, picture), plane in zip(chosen, planes, strict=True)]


def _one_each(parts: Sequence[Any], pictures: Sequence[Captioned]) -> Sequence[tuple[str, Image.Image | None]]:
    """Return a picture for each part: that of its tile, or the first of its frames; none where they do not go up."""
    if parts and pictures and len(pictures) % len(parts) == 0:
        return pictures[:: len(pictures) // len(parts)]
    return [("", None)] * len(parts)


def _grid(weights: Sequence[float], grid: tuple[int, ...]) -> list[list[list[float]]]:
    """Return the weights of a span by step, row and column; an axis that its grid lacks is one long."""
    steps, rows, cols = (grid[0], 1, 1) if len(grid) == 1 else (*[1] * (3 - len(grid)), *grid)[-3:]
    assert prod((steps, rows, cols)) == len(weights)
    flat = [round(float(weight), 8) for weight in weights]
    planes = [flat[step * rows * cols : (step + 1) * rows * cols] for step in range(steps)]
    return [[plane[row * cols : (row + 1) * cols] for row in range(rows)] for plane in planes]
