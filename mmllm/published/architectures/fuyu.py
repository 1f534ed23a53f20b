"""Fuyu (Adept 2023): pixels of patches through one layer, a token behind each row, no tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmllm.errors import MmllmError
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words

ANSWER = "<0x04>"
"""Begins the answer, behind the question; its processor writes it where there is a picture."""
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{% generation %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ eos_token }}"
    "{% endgeneration %}"
    "{%- else -%}"
    "{%- set seen = namespace(picture=false) -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}"
    "{%- set seen.picture = true -%}{{ 'PICTURE' }}"
    "{%- endfor -%}"
    "{{ '<s>' if seen.picture }}"
    "{%- for part in message['content'] if part['type'] != 'image' -%}{{ part['text'] }}{%- endfor -%}"
    "{{ 'ANSWER' if seen.picture }}"
    "{%- endif -%}"
    "{%- endfor -%}"
)
"""Its processor has none: it puts the picture in front of one question."""


def sections(source: Source) -> Sections:
    """``patches``, and ``mlp`` of one layer.

    Raises:
        MmllmError: a canvas that is no whole number of patches, or settings that patches here do not have.
    """
    pictures, side = source.pictures, source.config.patch_size
    sides = {word: (pictures.patch_size[word], pictures.size[word]) for word in ("height", "width")}
    for word, (patch, canvas) in sides.items():
        if patch != side or canvas % side:
            raise MmllmError(
                f"{source.path} ({source.family.name}): patches of {side} pixels, its image processor has patches of "
                f"{patch} on a canvas of {canvas} ({word}), which are not the same or do not fill it"
            )
    if not (pictures.do_resize and pictures.do_pad and pictures.do_rescale and pictures.do_normalize):
        raise MmllmError(
            f"{source.path} ({source.family.name}): its image processor leaves out a step (do_resize, do_pad, "
            "do_rescale, do_normalize), which patches here do not"
        )
    encoder = {
        "type": "patches",
        "patch": side,
        "longest": [pictures.size["height"], pictures.size["width"]],
        "fill": pictures.padding_value,
        "mean": _numbers(pictures.image_mean),
        "std": _numbers(pictures.image_std),
    }
    picture, newline = source.processor.image_token, source.processor.image_newline_token
    text = {"token": picture, "rows": newline, "around": ["", newline]}
    template = TEMPLATE.replace("PICTURE", picture).replace("ANSWER", ANSWER)
    connector = {**projector_words(source.path, source.config), "from": "image", **text}
    return Sections({"image": encoder}, {"image": connector}, template, asked)


def asked(source: Source, question: str, items: Sequence[Any]) -> dict[str, Any]:
    """What its processor makes of one question: the picture in front of it, and behind it what begins the answer."""
    words: dict[str, Any] = {"images": list(items), "return_legacy_image_output": False} if items else {}
    given = dict(source.processor(text=[question], return_tensors="pt", **words))
    return {word: value for word, value in given.items() if word in ("input_ids", "attention_mask", "pixel_values")}


def _numbers(value: float | list[float]) -> list[float]:
    return [value] if isinstance(value, int | float) else list(value)
