"""The peft library's tuner layers without the frozen layer they were made for; used by ``peft`` inside the LLM.

A layer of peft owns the frozen layer and calls it. Here the frozen layer stays in the LLM and runs as ever; peft's own
``forward`` is then called with that output, so no equation of the library is written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PolyConfig
from peft.tuners.ia3.layer import Linear as IA3Linear
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.poly.layer import Linear as PolyLinear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mmllm.connectors.layers.basics import unseen
from mmllm.errors import MmllmError
from mmllm.hooks import ForwardContext

NAME = "default"
"""peft's name of the one adapter in each layer."""


class FrozenLinear:
    """Stand-in where peft expects the frozen layer: gives the output it is handed, or its input; and the weights."""

    def __init__(self, base: nn.Module) -> None:
        self._base = base

    def __call__(self, x: Tensor, output: Tensor | None = None) -> Tensor:
        """``output`` of the frozen layer, or ``x`` where there is none."""
        return x if output is None else output

    @property
    def weight(self) -> Any:
        """Weight of the frozen layer, as its class keeps it."""
        return self._base.weight

    @property
    def bias(self) -> Any:
        """Bias of the frozen layer."""
        return self._base.bias


class Tuner(nn.Module):
    """One tuner layer of peft beside its frozen layer; weights in float32 whatever the LLM computes in."""

    def __init__(self, tuner: Any, base: nn.Module) -> None:
        """Take the frozen layer out of ``tuner``, a layer of peft."""
        super().__init__()
        self.tuner: Any
        del tuner.base_layer  # a module: the LLM's weights would be the connector's too
        tuner.base_layer = FrozenLinear(base)
        self.tuner = tuner.float()
        self.idle = False

    def skip_if_zero(self) -> None:
        """Skip the layer while it is frozen and changes nothing, as in a stage before the one that trains it."""
        tensors = list(self.tuner.parameters())
        self.idle = not any(tensor.requires_grad or unseen(tensor) for tensor in tensors) and self.neutral()

    def neutral(self) -> bool:
        """Whether the layer changes nothing with the weights it has."""
        raise NotImplementedError

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """Input float[..., in] and output float[..., out] of the frozen layer -> what takes the output's place."""
        changed: Tensor = self.tuner(x, output=output)
        return changed


class TunerLora(Tuner):
    """LoRA: ``y + scaling * B A x`` (Hu et al. 2021, arXiv:2106.09685)."""

    def __init__(self, base: nn.Module, words: dict[str, Any]) -> None:
        """``words``: arguments of peft's ``LoraConfig``."""
        config = LoraConfig(**words, fan_in_fan_out=isinstance(base, Conv1D))
        super().__init__(LoraLinear(base, NAME, config=config, r=config.r, lora_alpha=config.lora_alpha), base)

    def neutral(self) -> bool:
        """Whether B is zero."""
        return not bool(self.tuner.lora_B[NAME].weight.any())


class TunerDora(TunerLora):
    """DoRA: ``m (W0 x + scaling * B A x) / |W0 + scaling * B A|`` + bias (Liu et al. 2024, arXiv:2402.09353).

    It reads the frozen weight in every pass. It may: under ZeRO-3 the hook runs before the weight is let go again.
    """

    def __init__(self, base: nn.Module, words: dict[str, Any]) -> None:
        if hasattr(base.weight, "ds_id"):
            raise MmllmError(
                "peft: dora starts from the norm of the LLM's weights; attach it before ZeRO-3 splits them."
            )
        if not base.weight.is_floating_point():
            raise MmllmError("peft: dora starts from the norm of the LLM's weights; leave llm.quantize out.")
        # the norm at the start in float32, as it is computed later: else a bfloat16 LLM would not start unchanged
        super().__init__(_float32(base), {**words, "use_dora": True})
        self.tuner.base_layer = FrozenLinear(base)

    def neutral(self) -> bool:
        """Whether B is zero and the magnitudes are the norms of the frozen weight."""
        if not super().neutral():
            return False
        magnitude = self.tuner.lora_magnitude_vector[NAME]
        weight = self.tuner.base_layer.weight
        if hasattr(weight, "ds_id"):
            return False
        return torch.equal(magnitude.weight, magnitude.get_weight_norm(weight.float(), 0.0, 0.0))


class TunerIA3(Tuner):
    """(IA)^3: learned factors on a layer's output, or on its input where it is feed-forward (Liu et al. 2022,
    arXiv:2205.05638)."""

    def __init__(self, base: nn.Module, feedforward: bool) -> None:
        config = IA3Config(fan_in_fan_out=isinstance(base, Conv1D))
        super().__init__(IA3Linear(base, NAME, config=config, is_feedforward=feedforward), base)

    def neutral(self) -> bool:
        """Whether all factors are one."""
        return bool((self.tuner.ia3_l[NAME] == 1).all())

    def forward(self, x: Tensor, output: Tensor | None = None) -> Tensor:
        """Scaled output; without one, the scaled input."""
        changed: Tensor = self.tuner(x if output is None else output)
        return changed


class TunerPoly(Tuner):
    """Poly (Ponti et al. 2022, arXiv:2202.13914); with ``splits`` > 1 MHR (Caccia et al. 2022, arXiv:2211.03831).

    ``y + x A B / rank``, A and B mixed separately of the skills' by the row of the task in a learned table.
    """

    def __init__(self, base: nn.Module, name: str, rank: int, tasks: int, skills: int, splits: int) -> None:
        """``name`` of the layer, for errors."""
        if not isinstance(base, nn.Linear):
            raise MmllmError(f"peft: poly and mhr of the peft library work on nn.Linear only; {name} is a Conv1D.")
        if base.in_features % splits or base.out_features % splits:
            raise MmllmError(
                f"peft: splits {splits} must divide the widths of {name}, {base.in_features} -> {base.out_features}."
            )
        config = PolyConfig(r=rank, n_tasks=tasks, n_skills=skills, n_splits=splits)
        super().__init__(PolyLinear(base, NAME, config), base)
        self.width = base.out_features

    def neutral(self) -> bool:
        """Whether B is zero."""
        return not bool(self.tuner.poly_lora_B[NAME].any())

    def forward(self, x: Tensor, output: Tensor, rows: RowGroups | None = None) -> Tensor:
        """Change the output as every :class:`Tuner`; ``rows`` says whose each position is, and that one's task."""
        assert rows is not None
        apart = rows.apart(x)
        none = apart.new_zeros(*apart.shape[:2], self.width, dtype=torch.float32)
        delta = self.tuner(apart, output=none, task_ids=rows.tasks)
        return output + rows.together(delta, output)


class RowGroups:
    """Conversations of one pass as rows of their own, padded on the right: peft's Poly wants one task per row."""

    def __init__(self, ctx: ForwardContext, tasks: Sequence[int]) -> None:
        """``tasks``: number of the task of each of the B conversations."""
        ids = ctx.sequence_ids.flatten()
        order = torch.argsort(ids, stable=True)
        counts = torch.bincount(ids, minlength=len(tasks))
        within = torch.empty_like(ids)
        within[order] = torch.arange(len(ids), device=ids.device) - (counts.cumsum(0) - counts)[ids[order]]
        self._at = (ids, within)
        self._shape = (len(tasks), int(counts.max()))
        self.tasks = torch.tensor(tasks, device=ids.device)

    def apart(self, x: Tensor) -> Tensor:
        """float[R, S, D] or float[R * S, D] -> float[B, S_max, D], zeros at pads."""
        flat = x.reshape(-1, x.shape[-1])
        return flat.new_zeros(*self._shape, flat.shape[-1]).index_put(self._at, flat)

    def together(self, rows: Tensor, like: Tensor) -> Tensor:
        """float[B, S_max, D] -> the shape and dtype of ``like``."""
        return rows[self._at].view(like.shape).to(like.dtype)


def _float32(base: nn.Module) -> nn.Module:
    """A layer of the same kind with a float32 weight (the same memory if it is float32 already), without bias."""
    weight = base.weight
    assert isinstance(weight, Tensor)
    rows, columns = weight.shape  # in and out in GPT-2's Conv1D, out and in elsewhere
    with torch.device("meta"):
        made = Conv1D(columns, rows) if isinstance(base, Conv1D) else nn.Linear(columns, rows, bias=False)
    made.weight = nn.Parameter(weight.detach().float(), requires_grad=False)
    return made
