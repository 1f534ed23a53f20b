"""Ovis 2 (Lu et al. 2024, arXiv 2405.20797): its vision transformer without the head, and the head as a projector.

``families.py`` names the tower, ``projector_layouts.py`` has the rest in its table of what lies between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Ovis2PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.ovis2.configuration_ovis2 import Ovis2VisionConfig
from transformers.models.ovis2.modeling_ovis2 import Ovis2VisionTransformer

from mmllm.errors import MmllmError
from mmllm.vlms.tensors import read_tensors

MARKS = 5
"""Embeddings at the end of its table that stand around and between the parts of a picture."""
SOFTMAX = {"softmax": "softmax", "st_argmax": "hard_softmax"}
"""``tokenize_function`` -> the connector's activation."""
_TOWER, _TABLE = "vision_tower.", "visual_embeddings_table."
_HEAD = {"head_linear.weight": "mlp.1.weight", "head_norm.weight": "mlp.2.weight", "head_norm.bias": "mlp.2.bias"}


class Ovis2Tower(Ovis2PreTrainedModel):
    """Patches of pictures, float[N, T, D] behind the last norm; its head is the connector's."""

    config: Ovis2VisionConfig

    def __init__(self, config: Ovis2VisionConfig) -> None:
        """``config`` of the whole tower."""
        super().__init__(config)
        self.transformer = Ovis2VisionTransformer(config)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """``pixel_values`` float[N, 3, H, W]."""
        found: BaseModelOutput = self.transformer(pixel_values)
        return found


def words_of(config: Any) -> dict[str, Any]:
    """Type and arguments of the connector that computes its head and the table behind it.

    Raises:
        MmllmError: it draws at random, or has another number of marks.
    """
    tower = config.vision_config
    if tower.tokenize_function not in SOFTMAX:
        raise MmllmError(
            f"tokenize_function: {tower.tokenize_function} draws a picture's visual words at random in every pass, so "
            f"its answers differ from one to the next; known are {', '.join(SOFTMAX)}"
        )
    if tower.num_visual_indicator_tokens != MARKS or len(config.visual_indicator_token_ids) != MARKS:
        raise MmllmError(
            f"num_visual_indicator_tokens: {tower.num_visual_indicator_tokens}; its processor writes {MARKS} of them"
        )
    words = {"type": "pixel_shuffle", "factor": tower.hidden_stride, "norm": False, "width": tower.vocab_size - MARKS}
    return {**words, "bias": False, "inner_norm": True, "activation": SOFTMAX[tower.tokenize_function]}


def tensors_of(path: str, config: Any) -> dict[str, Tensor]:
    """Its tensors by the connector's names, read from a folder or hub id."""
    read = read_tensors(path, (f"model.{_TOWER}", _TOWER))
    found = {ours: read[theirs] for theirs, ours in _HEAD.items()}
    table = read_tensors(path, (f"model.{_TABLE}", _TABLE))["weight"]
    return {**found, "mlp.4.weight": table[:-MARKS].T.contiguous(), "stitch.marks": table[-MARKS:].contiguous()}


def published(config: Any, learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of :func:`tensors_of`: by the names that the whole model has for them."""
    found = {f"model.{_TOWER}{theirs}": learned[ours] for theirs, ours in _HEAD.items()}
    return {**found, f"model.{_TABLE}weight": torch.cat([learned["mlp.4.weight"].T, learned["stitch.marks"]])}
