"""mini_sound: what is heard when in four seconds of synthesised sounds, by exact match."""

from __future__ import annotations

from typing import ClassVar

from mmllm.evaluation.benchmarks.mini import Mini


class MiniSound(Mini):
    """One to four of eight sounds, each in one of six manners at one of eight times; exact match of the short answer.

    Time, manner and sound come in combinations that no training clip has.
    """

    name: ClassVar[str] = "mini_sound"
    metric = "exact_match"
    variant = "vqa_normalised"
    modality: ClassVar[str] = "audio"
    fetch: ClassVar[str] = (
        "`python -m mmllm.miniature sense sound` draws it from a seed; or give a folder that holds it as path."
    )

    def __init__(self, *, path: str = "data/mini/sound", split: str = "test", prompt: str | None = None) -> None:
        super().__init__(path=path, split=split, prompt=prompt)
