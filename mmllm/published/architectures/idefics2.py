"""Idefics2 (Laurencon et al. 2024, arXiv 2405.02246): pictures at their own shape, 64 latents of a resampler each."""

from __future__ import annotations

from mmllm.errors import MmllmError
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
    """The tower's normed patches, and ``gated_resampler``.

    Raises:
        MmllmError: pictures are cut into quarters of any size.
    """
    if source.tiles and source.pictures.do_image_splitting:
        raise MmllmError(
            f"{source.path} ({source.family.name}) cuts every picture into quarters of their own sizes, which no "
            "encoder here does; import it with pictures whole: --no-tiles"
        )
    # transformers 5.23 writes five pictures' tokens by this setting even where a call says to leave a picture whole
    source.pictures.do_image_splitting = False
    token = source.token(source.config.image_token_id)
    image = {"type": "hf_native", "model": source.path, "layers": ["final"]}
    connector = {**projector_words(source.path, source.config), "from": "image", "token": token}

    def around(template: str) -> str:
        return AROUND.replace("MARK", token).replace("FAKE", FAKE).replace("TEMPLATE", template)

    return Sections({"image": image}, {"image": connector}, rewrites=around)
