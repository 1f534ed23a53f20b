"""Pictures that a comparison shows, and the pixels that the encoder sees of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy
from PIL import Image
from torch import Tensor

from mmllm.batches.sample import Encoded
from mmllm.published.media.base import Media, Shown

SIZES = ((333, 250), (120, 200))
"""Width and height of the pictures that are looked at."""


def picture(width: int, height: int) -> Image.Image:
    """A picture with edges, colours and noise, always the same."""
    rng = numpy.random.default_rng(width * 1000 + height)
    y, x = numpy.mgrid[0:height, 0:width]
    planes = [255 * x / width, 255 * y / height, 127 + 100 * numpy.sin(x / 9) * numpy.cos(y / 7)]
    values = numpy.stack(planes, axis=-1) + rng.normal(0, 20, (height, width, 3))
    return Image.fromarray(values.clip(0, 255).astype("uint8"))


class Pictures(Media):
    """One picture in a conversation."""

    key = "image"

    @property
    def token(self) -> int:
        """Id of a picture's token."""
        return int(self.source.config.image_token_id)

    def shown(self) -> list[Shown]:
        """A picture of each of two shapes."""
        return [Shown(f"{w} x {h}", (picture(w, h),), (picture(w, h),)) for w, h in SIZES]

    def given(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """What the published processor makes of the conversation and of pictures."""
        text = self.prompt(len(items))
        words: dict[str, Any] = self.source.special_tokens(text)
        if items:
            words |= {"images": list(items), **self.source.whole()}
        return dict(self.source.processor(text=[text], return_tensors="pt", **words))

    def inputs(self, given: dict[str, Tensor], encoded: Encoded) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Pixels of every tile."""
        inner = encoded.media["image"][0]["image"]["pixels"]
        theirs, own = (one.reshape(-1, *one.shape[-3:]) for one in (given["pixel_values"], inner))
        yield "pixels", theirs, own

    @contextmanager
    def listening(self, theirs: Any, given: dict[str, Tensor]) -> Iterator[list[Tensor]]:
        """What leaves the projector."""
        features: list[Tensor] = []
        projector = theirs.get_submodule(f"model.{self.source.family.projector}")
        handle = projector.register_forward_hook(
            lambda _, __, output: features.append(output.reshape(-1, output.shape[-1]))
        )
        try:
            yield features
        finally:
            handle.remove()
