"""LoRA on the LLM's linear layers (Hu et al. 2021, arXiv:2106.09685), weights and scaling made by peft.

The low-rank layers belong to this connector and are added to the frozen layers' outputs by hooks, so the LLM's own
tree, names and digests are the same with and without it, and removing the hooks restores it bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mmllm.connectors.base import Connector, LLMAdapter
from mmllm.connectors.layers.basics import is_noop, module_key
from mmllm.errors import MmllmError
from mmllm.hooks import ChangeOutput, ForwardContext, Handle
from mmllm.hooks.points import LLMHookPoints


class LowRank(nn.Module):
    """``scaling * b(a(dropout(x)))`` of one linear layer; zero at the start, because ``b`` is."""

    def __init__(self, base: nn.Module, config: LoraConfig) -> None:
        """``base`` is the frozen layer, read for its widths only."""
        super().__init__()
        # peft's own layer makes the weights, so that they start as peft's do; only its forward is not used
        made = PeftLinear(base, "default", config=config, r=config.r, lora_alpha=config.lora_alpha)
        # float32 whatever the LLM computes in: small steps vanish in bfloat16 weights
        self.a = made.lora_A["default"].float()
        self.b = made.lora_B["default"].float()
        self.dropout = made.lora_dropout["default"]
        self.scaling = float(made.scaling["default"])
        self.idle = False

    def skip_if_zero(self) -> None:
        """Skip the update while it is frozen and zero, as in a stage before the one that trains it."""
        self.idle = is_noop(self.b.weight)

    def forward(self, x: Tensor, output: Tensor | None = None) -> Tensor:
        """float[..., in] -> float[..., out], in the dtype of ``x``; added to ``output`` float[..., out] if given."""
        low = self.a(self.dropout(x.to(self.a.weight.dtype)))
        if output is None:
            return (self.b(low) * self.scaling).to(x.dtype)
        if output.dtype != low.dtype:
            return output + (self.b(low) * self.scaling).to(output.dtype)
        # product, scaling and sum at once: an update costs memory traffic, not arithmetic, and this is a third of it
        added = torch.addmm(output.flatten(0, -2), low.flatten(0, -2), self.b.weight.t(), alpha=self.scaling)
        return added.view(output.shape)


class LoraConnector(LLMAdapter):
    """LoRA (Hu et al. 2021, arXiv 2106.09685): low-rank updates of the LLM's linear layers.

    It takes no places in the LLM's sequence.
    """

    attaches_to_parts = True

    zero_init = True
    goes_on = True
    positionwise = shares_prefix = True

    def __init__(
        self,
        *,
        llm_dim: int,
        rank: int = 16,
        alpha: float = 32,
        dropout: float = 0.0,
        targets: str | Sequence[str] = "all-linear",
        rslora: bool = False,
    ) -> None:
        """Set up, without weights until ``attach``.

        Args:
            llm_dim: width of the LLM.
            rank: r, width of the bottleneck.
            alpha: the update is scaled by alpha / rank (by alpha / sqrt(rank) with ``rslora``).
            dropout: of the input of the update, while training.
            targets: ``all-linear`` (of all blocks, not the LM head) or layer names such as [q_proj, v_proj].
            rslora: rank-stabilised scaling (Kalajdzievski 2023, arXiv:2312.03732).
        """
        super().__init__(llm_dim=llm_dim)
        if rank < 1 or alpha <= 0 or not 0 <= dropout < 1:
            raise MmllmError(f"lora: rank {rank} must be >= 1, alpha {alpha} > 0 and dropout {dropout} in [0, 1).")
        self.targets = targets if isinstance(targets, str) else list(targets)
        self.has_dropout = dropout > 0
        self.config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, use_rslora=rslora)
        self.layers = nn.ModuleDict()

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Make a pair of weights for each target layer and add its output to the layer's."""
        linears = llm.linears(self.targets)
        for name, base in linears.items():
            key = module_key(name)
            if key not in self.layers:
                config = self._config_for(base)
                self.layers[key] = LowRank(base, config)
        handles = [llm.after_linear(name, adding(self, self.layers[module_key(name)])) for name in linears]
        return Handle.of(handles)

    def skip_if_zero(self) -> None:
        """Find out which updates may be skipped; to be called whenever weights were loaded or (un)frozen."""
        for layer in self.layers.values():
            assert isinstance(layer, LowRank)
            layer.skip_if_zero()

    def _config_for(self, base: nn.Module) -> LoraConfig:
        """GPT-2 keeps its weights transposed."""
        values = self.config.to_dict() | {"fan_in_fan_out": isinstance(base, Conv1D)}
        return LoraConfig(**values)


def adding(connector: Connector, update: Any) -> ChangeOutput:
    """The hook: output + update(input) where the connector is active, ``update`` a :class:`LowRank`."""

    def change(ctx: ForwardContext, x: Tensor, output: Tensor) -> Tensor:
        return output if update.idle else connector.select(ctx, update(x, output), output)

    return change
