"""mini_grounding: where in the picture is it, answered with a box of numbers from 0 to 100, by IoU >= 0.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.mini import Mini
from mmllm.evaluation.metrics.boxes import Box, box_hit, parse_box

SCALE = 100.0


class MiniGrounding(Mini):
    """Boxes of shapes; lines also hold ``box``: left, top, right, bottom in hundredths of the picture."""

    name: ClassVar[str] = "mini_grounding"
    metric = "iou@0.5"

    def reference(self, row: Mapping[str, Any]) -> Box:
        """The box of one line as fractions of the picture; MmllmError where it has none."""
        box = row.get("box")
        if not isinstance(box, list) or len(box) != 4:
            raise MmllmError(f"{self.name}: question {row['id']} has no box of four numbers but {box!r}.")
        left, top, right, bottom = (float(number) / SCALE for number in box)
        return left, top, right, bottom

    def box(self, prediction: str) -> Box | None:
        """The first box that an answer names."""
        return parse_box(prediction, SCALE)

    def parsed(self, prediction: str) -> bool:
        """Whether a box can be read from the prediction."""
        return self.box(prediction) is not None

    def score(self, prediction: str, reference: Any) -> float:
        """1 where the predicted box overlaps the reference with an IoU of at least 0.5, else 0."""
        return box_hit(self.box(prediction), reference)
