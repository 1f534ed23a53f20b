"""Where is it: RefCOCO, RefCOCO+, RefCOCOg and Ref-L4, one question an expression, by IoU of the box."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from mmllm.errors import MediaError, MmllmError, shortened
from mmllm.evaluation.benchmarks.base import Answered, Question
from mmllm.evaluation.benchmarks.published.base import Published, from_hub
from mmllm.evaluation.benchmarks.qa import BOX
from mmllm.evaluation.metrics.boxes import Box, box_hit, iou, parse_box
from mmllm.types import Stored

STRICTER = (0.75, 0.9)
"""Thresholds of IoU that are reported beside 0.5."""
STEPS = tuple(number / 100 for number in range(50, 100, 5))
"""Thresholds whose mean accuracy is reported, as COCO averages precision."""


class Boxes(Published):
    """An expression is asked for; the answer is a box, right where its IoU with the true one is 0.5 or more.

    ``box_scale`` says what the model's boxes are parts of: 1, 100 (default) or 1000 for the whole picture. It is never
    guessed from the numbers, and should say the same as the prompt.
    """

    metric = BOX
    asked: ClassVar[str] = (
        "<image>\nWhere is {question}? Answer with its bounding box [left, top, right, bottom] in hundredths of the "
        "picture."
    )

    def __init__(
        self,
        *,
        path: str | None = None,
        split: str | None = None,
        config: str | None = None,
        prompt: str | None = None,
        box_scale: float = 100.0,
    ) -> None:
        """Open the tables and look at each row; the arguments are those of :class:`Published`, and ``box_scale``."""
        self._scale = box_scale
        super().__init__(path=path, split=split, config=config, prompt=prompt)

    def reference(self, item: Mapping[str, Any], options: Sequence[str]) -> Box:
        """The box in parts of the picture, of [left, top, width, height] in pixels."""
        found = item["answer"]
        numbers = list(found) if isinstance(found, list | tuple) else []
        if len(numbers) != 4 or not all(isinstance(one, int | float) for one in numbers) or min(numbers[2:]) < 0:
            raise MmllmError(f"it has the box {shortened(found)}; it is [left, top, width, height] in pixels")
        width, height = self._size(item)
        left, top, wide, high = map(float, numbers)
        if left < 0 or top < 0 or left + wide > width + 1 or top + high > height + 1:
            raise MmllmError(f"it has the box {shortened(found)}, which is not inside of {width:g} x {height:g} pixels")
        return left / width, top / height, min(1.0, (left + wide) / width), min(1.0, (top + high) / height)

    def graded(self, prediction: str, question: Question) -> tuple[float, bool]:
        """Whether the box that is read overlaps enough, and whether one was read."""
        found = self.box(prediction)
        return (0.0, False) if found is None else (box_hit(found, question.reference), True)  # type: ignore[arg-type]

    def box(self, prediction: str) -> Box | None:
        """The first box that an answer names."""
        return parse_box(prediction, self._scale)

    def figures(self, answered: Sequence[Answered]) -> dict[str, float]:
        """Accuracy at stricter thresholds, and its mean from 0.5 to 0.95."""
        found = [(self.box(one.prediction), one.question.reference) for one in answered]
        overlaps = [0.0 if box is None else iou(box, wanted) for box, wanted in found]  # type: ignore[arg-type]

        def at(threshold: float) -> float:
            return fmean(float(overlap >= threshold) for overlap in overlaps)

        return {**{f"acc@{one}": at(one) for one in STRICTER}, "macc": fmean(at(one) for one in STEPS)}

    def _size(self, item: Mapping[str, Any]) -> tuple[float, float]:
        """Width and height of the picture in pixels: of the row, else of the picture itself."""
        if item.get("width") and item.get("height"):
            return float(item["width"]), float(item["height"])
        from PIL import Image, UnidentifiedImageError

        (picture,) = self._found("image", item["image"])
        data = picture.load() if isinstance(picture, Stored) else picture
        try:
            with Image.open(data if isinstance(data, Path) else io.BytesIO(data)) as opened:  # its head alone is read
                return opened.size
        except (OSError, UnidentifiedImageError) as error:
            raise MediaError(f"the size of its picture cannot be read: {error}") from error


class RefCoco(Boxes):
    """RefCOCO (Yu et al. 2016, arXiv 1608.00272), Acc@0.5: one question for each expression of an object.

    Of the hub's form only testA and testB are the splits that papers report; its ``val`` mixes two divisions. Also read
    is the JSON of MiniGPT-4's repository, an expression a row, with COCO's folder train2014 beside it.
    """

    name: ClassVar[str] = "refcoco"
    fetch: ClassVar[str] = from_hub("lmms-lab/RefCOCO", "data/testA-00000-of-00001.parquet")
    columns: ClassVar[Mapping[str, str]] = {
        "of": "question_id", "image": "image", "expressions": "answer", "answer": "bbox"
    }  # fmt: skip
    tables: ClassVar[Sequence[Sequence[str]]] = (("refcoco_{split}.json",),)
    clips: ClassVar[str] = "train2014"
    of_split: ClassVar[str] = "testA"

    def items(self, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """One question for each expression."""
        if "sents" in row:  # img_id is the picture's name and the number of the object
            picture = f"{str(row.get('img_id')).rpartition('_')[0]}.jpg"
            return [{**row, "question": str(row["sents"]), "answer": row.get("bbox"), "image": picture}]
        item = self.renamed(row)
        said = item["expressions"] if isinstance(item["expressions"], list) else [item["expressions"]]
        return [{**item, "question": text, "id": f"{item['of']}/{number}"} for number, text in enumerate(said)]


class RefCocoPlus(RefCoco):
    """RefCOCO+ (Yu et al. 2016, arXiv 1608.00272): expressions without words of place, Acc@0.5."""

    name: ClassVar[str] = "refcoco_plus"
    fetch: ClassVar[str] = from_hub("lmms-lab/RefCOCOplus", "data/testA-00000-of-00001.parquet")
    tables: ClassVar[Sequence[Sequence[str]]] = (("refcoco+_{split}.json",),)


class RefCocoG(RefCoco):
    """RefCOCOg (Mao et al. 2016): longer expressions, Acc@0.5; the hub's ``val`` mixes two divisions of it."""

    name: ClassVar[str] = "refcocog"
    fetch: ClassVar[str] = from_hub("lmms-lab/RefCOCOg", "data/test-00000-of-000NN.parquet")
    tables: ClassVar[Sequence[Sequence[str]]] = (("refcocog_{split}.json",),)
    of_split: ClassVar[str] = "test"


class RefL4(Boxes):
    """Ref-L4 (JierunChen/Ref-L4): long reviewed expressions, Acc@0.5, 0.75, 0.9 and the mean from 0.5 to 0.95."""

    name: ClassVar[str] = "ref_l4"
    fetch: ClassVar[str] = from_hub(
        "JierunChen/Ref-L4", "ref-l4-test.parquet", "images.tar.gz, unpacked, as the folder images"
    )
    columns: ClassVar[Mapping[str, str]] = {
        "id": "id", "image": "file_name", "question": "caption", "answer": "bbox"
    }  # fmt: skip
    tables: ClassVar[Sequence[Sequence[str]]] = (("ref-l4-{split}.parquet",),)
    clips: ClassVar[str] = "images"
