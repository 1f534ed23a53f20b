"""Captions of COCO and NoCaps: CIDEr-D over the set, BLEU-1 to BLEU-4 beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar

from mmllm.evaluation.benchmarks.base import Answered, Question
from mmllm.evaluation.benchmarks.published.base import Published, from_hub
from mmllm.evaluation.metrics.captions import Cider, bleu, words_of
from mmllm.evaluation.metrics.text import token_f1
from mmllm.evaluation.references import texts_of


class Captions(Published):
    """The score is CIDEr-D, 0 to 10; papers print it times 100.

    How common words are is counted over the references of the whole split, also where a part of it is asked. Texts are
    cut as :func:`words_of` says. A question's own score is the best token F1 with a reference: CIDEr-D of a caption
    has no value that means right.
    """

    metric = "cider_d"
    asked: ClassVar[str] = "<image>\n{question}"
    question_text: ClassVar[str] = "Provide a one-sentence caption for the provided image."

    def prepare(self) -> None:
        """Forget what was scored."""
        self._cider: Cider | None = None
        self._scored: dict[tuple[str, str], float] = {}

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """All are asked the same."""
        return [{**self.renamed(row), "question": self.question_text}]

    def score(self, prediction: str, reference: Any) -> float:
        """Token F1 with the nearest reference."""
        return token_f1(prediction, reference) if self.parsed(prediction) else 0.0

    def whole(self, answered: Sequence[Answered]) -> float | None:
        """The mean CIDEr-D."""
        return fmean(self._of(one.prediction, one.question) for one in answered)

    def figures(self, answered: Sequence[Answered]) -> dict[str, float]:
        """BLEU of all captions together, by the longest run of words."""
        pairs = ((words_of(one.prediction), self._references(one.question)) for one in answered)
        return {f"bleu_{n}": value for n, value in enumerate(bleu(pairs), 1)}

    def _of(self, prediction: str, question: Question) -> float:
        if self._cider is None:
            every = (texts_of(self._items(number)[part]["answer"]) for number, part in self._places)
            self._cider = Cider.of([[words_of(text) for text in texts] for texts in every])
        key = (question.sample.name, prediction)
        if key not in self._scored:  # an interval asks for the same captions a hundred times
            self._scored[key] = self._cider.score(words_of(prediction), self._references(question))
        return self._scored[key]

    def _references(self, question: Question) -> list[list[str]]:
        return [words_of(str(text)) for text in question.reference]


class CocoCaptions(Captions):
    """COCO captions (Chen et al. 2015, arXiv 1504.00325) of val2017, five a picture; CIDEr-D and BLEU.

    Papers' Karpathy test split is another 5,000 pictures, of val2014: their numbers are not comparable with these.
    """

    name: ClassVar[str] = "coco_captions"
    fetch: ClassVar[str] = from_hub("lmms-lab/COCO-Caption2017", "data/val-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = {"id": "question_id", "image": "image", "answer": "answer"}
    of_split: ClassVar[str] = "val"


class NoCaps(Captions):
    """NoCaps (Agrawal et al. 2019, arXiv 1812.08658), validation: ten captions a picture, of things COCO has not."""

    name: ClassVar[str] = "nocaps"
    fetch: ClassVar[str] = from_hub("lmms-lab/NoCaps", "data/validation-00000-of-000NN.parquet")
    columns: ClassVar[Mapping[str, str]] = {"id": "image_id", "image": "image", "answer": "annotations_captions"}
    of_split: ClassVar[str] = "validation"
    submission: ClassVar[str] = 'Its test split is scored on EvalAI, as [{"image_id": number, "caption": text}].'
