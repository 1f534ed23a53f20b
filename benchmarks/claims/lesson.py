"""One lesson of the claims' tasks: what is shown, and the questions on it; made by ``lessons``, written by ``data``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image

from mmllm.miniature.world.described import Ask


@dataclass(frozen=True)
class Lesson:
    """One conversation: ``asks`` are its turns, ``before`` stands in front of the first one."""

    asks: Sequence[Ask]
    image: Image.Image | None = None
    before: str = ""
    group: str = ""
    """The domain or task it belongs to, where a task of the claims has several; each gets a file of its own."""
    modality: str = "image"
    """What ``file`` is: the field of a line, the placeholder and the encoder's key in the recipe."""
    file: tuple[str, bytes] | None = None
    """Ending and content of what is shown, where that is no picture: ``(".npy", ...)``."""


Make = Callable[[Random, bool], Lesson]
"""(random numbers, held out) -> lesson; held out ones have one question."""
