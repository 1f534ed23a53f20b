"""mini_sound: what is heard when in four seconds of synthesised sounds, by exact match."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from mmllm.evaluation.benchmarks.mini import Mini
from mmllm.evaluation.metrics.text import exact_match


class MiniSound(Mini):
    """One to four of eight sounds, each in one of six manners at one of eight times; exact match of the short answer.

    Time, manner and sound come in combinations that no training clip has.
    """

    name: ClassVar[str] = "mini_sound"
    metric: ClassVar[str] = "exact_match"
    variant = "vqa_normalised"
    modality: ClassVar[str] = "audio"
    fetch: ClassVar[str] = (
        "`python -m mmllm.miniature sense sound` draws it from a seed; or give a folder that holds it as path."
    )

    def __init__(self, *, path: str = "data/mini/sound", split: str = "test", prompt: str | None = None) -> None:
        super().__init__(path=path, split=split, prompt=prompt)

    def score(self, prediction: str, reference: Any) -> float:
        """1 or 0: equal to the answer after the official VQA normalisation."""
        return exact_match(prediction, reference)

    @classmethod
    def tiny_item(cls, folder: Path) -> str:
        """A tenth of a second of a buzz."""
        import wave

        with wave.open(str(folder / "0.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(b"\x00\x10\x00\xf0" * 400)
        return "0.wav"

    @classmethod
    def tiny_rows(cls) -> list[dict[str, Any]]:
        """Two questions."""
        return [
            {"question": "what is heard at t1?", "answers": ["low horn"]},
            {"question": "where is the horn?", "answers": ["t1"]},
        ]
