"""mini_together: a picture, a clip and a sound in one message and a question about one of them, by exact match."""

from __future__ import annotations

from typing import ClassVar

from mmllm.evaluation.benchmarks.base import Question
from mmllm.evaluation.benchmarks.mini import Mini

SENSES = ("image", "video", "audio")
PROMPT = "<image><video><audio>\n{question}"


class MiniTogether(Mini):
    """Lines hold ``image``, ``video`` and ``audio``; the kind says which of them the question is about."""

    name: ClassVar[str] = "mini_together"
    metric = "exact_match"
    variant = "vqa_normalised"
    fetch: ClassVar[str] = (
        "`python -m mmllm.miniature sense together` joins the miniature pictures, clips and sounds; or give a folder "
        "that holds them as path."
    )

    def __init__(self, *, path: str = "data/mini/together", split: str = "test", prompt: str = PROMPT) -> None:
        super().__init__(path=path, split=split, prompt=prompt)
        (file,) = self.files
        self.rows(self._rows, file, None, SENSES)

    def __getitem__(self, index: int) -> Question:
        """The question on one line of the file."""
        row = self._rows[index]
        media = {key: (self.files[0].parent / row[key],) for key in SENSES}
        return self.question(row["id"], row["question"], media, self.reference(row), row.get("kind", ""))
