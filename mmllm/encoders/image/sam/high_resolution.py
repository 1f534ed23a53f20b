"""What DeepSeek-VL puts behind Segment Anything's image encoder: its output and an inner state, brought to few patches.

Part of the encoder ``hf_sam`` where its folder is a DeepSeek-VL with two towers.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers.models.deepseek_vl_hybrid.modeling_deepseek_vl_hybrid import (
    DeepseekVLSamVisionNeck,
    DeepseekVLSamVisionProj,
)

from mmllm.errors import MmllmError
from mmllm.vlms.tensors import read_tensors
from mmllm.vlms.weightless import weightless

_PARTS = ("neck", "proj", "alpha")


class HighResolution(nn.Module):
    """proj(output) + alpha * proj(neck(state)), with the state behind the first block that attends everywhere.

    proj resizes to four times the patches of the other tower and halves them twice (Lu et al. 2024, arXiv 2403.05525).
    """

    def __init__(self, config: Any) -> None:
        """``config``: of the whole model; weights are without content."""
        super().__init__()
        high, low = config.high_res_vision_config, config.vision_config
        self.side = low.image_size // low.patch_size
        self.neck = DeepseekVLSamVisionNeck(high)
        self.proj = DeepseekVLSamVisionProj(high, output_size=self.side)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.layer = high.global_attn_indexes[0] + 1
        """Number of the inner state, as encoders count layers."""

    @classmethod
    def load(cls, path: str, config: Any) -> Self:
        """Those of the model at ``path``.

        Raises:
            MmllmError: the folder lacks one of their weights.
        """
        made = cls(config)
        if weightless():
            return made
        found = {
            name: tensor
            for part in _PARTS
            for name, tensor in _named(part, read_tensors(path, _beginnings(part))).items()
        }
        lacking = sorted(made.state_dict().keys() - found.keys())
        if lacking:
            raise MmllmError(f"{path!r} lacks weights of its high_res_vision_{lacking[0]}; download the folder again")
        made.load_state_dict(found)
        return made

    @property
    def dim(self) -> int:
        """Width of what it gives."""
        return int(self.proj.conv2.out_channels)

    def forward(self, state: Tensor, output: Tensor) -> Tensor:
        """float[N, side * side, dim]; ``state`` float[N, rows, cols, hidden], ``output`` float[N, C, rows, cols]."""
        joined = self.proj(output) + self.proj(self.neck(state)) * self.alpha
        return joined.flatten(2).transpose(1, 2)


def _beginnings(part: str) -> tuple[str, str]:
    return f"model.high_res_vision_{part}", f"high_res_vision_{part}"


def _named(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}{rest}": tensor for rest, tensor in tensors.items()}
