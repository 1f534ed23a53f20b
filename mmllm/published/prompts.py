"""How a comparison asks a published processor whose prompts come from no chat template; ``comparison`` calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from mmllm.published.source import Source

Talk = Sequence[tuple[str, str]]
"""(role, text) of each turn."""


def _fuyu(source: Source, talk: Talk, image: Image.Image | None) -> dict[str, Tensor]:
    """One question: its processor puts the picture in front of it, and behind it what begins the answer."""
    ((_, text),) = talk
    words: dict[str, Any] = {"images": [image], "return_legacy_image_output": False} if image is not None else {}
    given = dict(source.processor(text=[text], return_tensors="pt", **words))
    return {word: value for word, value in given.items() if word in ("input_ids", "attention_mask", "pixel_values")}


PROMPTS: Mapping[str, Callable[[Source, Talk, Image.Image | None], dict[str, Tensor]]] = {"fuyu": _fuyu}
"""``model_type`` -> what its processor makes of a conversation of one turn."""
