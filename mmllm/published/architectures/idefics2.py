"""Idefics2 (Laurencon et al. 2024, arXiv 2405.02246): pictures at their own shape, 64 latents of a resampler each."""

from __future__ import annotations

from typing import Any

from mmllm.errors import MmllmError
from mmllm.processors.native.idefics2 import QUARTERS
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words

FAKE = "<fake_token_around_image>"
AROUND = (
    "{% set rendered %}TEMPLATE{% endset %}"
    "{% set rendered = rendered | replace('MARK', 'FAKEMARKFAKE') | replace('FAKEFAKE', 'FAKE') %}"
    "{% for piece in rendered.split('FAKE') %}{% if not loop.first %}{{ 'FAKE' }}"
    "{% set inner = piece.split('\ufdd0')[2] if piece.startswith('\ufdd0') else piece %}"
    "{% set begin = inner.lstrip('\ufdd1\ufdd2\ufdd3\ufdd4')[:1] %}"
    "{% if begin and begin != '<' and not begin.isspace() %}{{ ' ' }}{% endif %}{% endif %}{{ piece }}{% endfor %}"
)
"""What its processor does with a rendered text: a token around each picture, one between two that stand side by side,
and a blank behind it where a word would follow. The letters that are passed over, with a number between two of the
first kind, mark where messages begin and end."""


def sections(source: Source) -> Sections:
    """The tower's normed patches of a picture, or of its quarters and of all of it, and ``gated_resampler``.

    Raises:
        MmllmError: its processor cuts pictures and does not pad what it cuts.
    """
    pictures = source.pictures
    token = source.token(source.config.image_token_id)
    image: dict[str, Any] = {"type": "hf_native", "model": source.path, "layers": ["final"]}
    connector: dict[str, Any] = {**projector_words(source.path, source.config), "from": "image", "token": token}
    if not source.tiles:
        # transformers 5.23 writes five pictures' tokens by this setting even where a call says to leave a picture whole
        pictures.do_image_splitting = False
    elif pictures.do_image_splitting:
        if not pictures.do_pad:
            raise MmllmError(
                f"{source.path} ({source.family.name}) cuts pictures into quarters and does not pad them to one size "
                "(do_pad: false), so its own processor cannot hand them over; import it with pictures whole: --no-tiles"
            )
        image["tiles"] = QUARTERS
        connector["tiles"] = {"col": FAKE, "row": FAKE}

    def around(template: str) -> str:
        return AROUND.replace("MARK", token).replace("FAKE", FAKE).replace("TEMPLATE", template)

    return Sections({"image": image}, {"image": connector}, rewrites=around)
