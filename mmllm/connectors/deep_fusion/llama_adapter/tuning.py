"""Bias, scale and norm tuning of LLaMA-Adapter V2 (Gao et al. 2023, arXiv 2304.15010): a few weights per frozen layer.

``llama_adapter`` puts these after the LLM's linear layers and norms; at the start each is an exact identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mmllm.connectors.layers.basics import in_out_features
from mmllm.errors import MmllmError
from mmllm.hooks.points import LLMHookPoints

KINDS = ("bias", "scale", "norm")
"""Words of ``tuning:``."""


class ScaleAndBias(nn.Module):
    """Map y -> s * (y + b) after one frozen layer, s = 1 and b = 0 at the start; each is there only if asked for."""

    def __init__(self, width: int, scale: bool, bias: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width)) if scale else None
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, y: Tensor, still: Tensor | None = None) -> Tensor:
        """Tune y float[..., width], in its dtype; rows in ``still`` bool[..., 1] give s and b no gradient."""
        x = y.float()
        if self.bias is not None:
            x = x + held(self.bias, still)
        if self.scale is not None:
            x = x * held(self.scale, still)
        return x.to(y.dtype)


def held(weight: Tensor, still: Tensor | None) -> Tensor:
    """Hold the weight where ``still`` is True: the same values, no gradient to it."""
    return weight if still is None else torch.where(still, weight.detach(), weight)


def make(llm: LLMHookPoints, kinds: Sequence[str]) -> dict[str, Callable[[], ScaleAndBias]]:
    """Prepare, for each layer that is tuned: its name in ``llm.model`` -> how to make what comes after it.

    ``scale`` and ``bias``: every linear layer of the blocks. ``norm``: every norm of the residual stream: the frozen
    weight w times s (and plus b where the norm has a bias) spans what unfreezing w would, and w stays what it was.

    Raises:
        MmllmError: a word that is none of :data:`KINDS`, or twice.
    """
    wrong = [kind for kind in kinds if kind not in KINDS]
    if wrong or len(set(kinds)) < len(kinds):
        raise MmllmError(f"llama_adapter tuning: {list(kinds)} must be different words of {', '.join(KINDS)}.")
    made: dict[str, Callable[[], ScaleAndBias]] = {}
    scale, bias = "scale" in kinds, "bias" in kinds
    if scale or bias:
        made |= {name: _after(in_out_features(linear)[1], scale, bias) for name, linear in llm.linears().items()}
    if "norm" in kinds:
        for name, norm in norms(llm).items():
            has_bias = any(key == "bias" for key, _ in norm.named_parameters())
            made[name] = _after(len(norm.get_parameter("weight")), True, has_bias)
    return made


def norms(llm: LLMHookPoints) -> dict[str, nn.Module]:
    """Find the norms of the residual stream, those of the blocks and the last one, by their names in ``llm.model``.

    A norm is a layer without parts whose weights are all vectors. Norms of queries and keys (LLaMA has none) stay as
    they are, as the keys of the prompts pass them too.
    """
    attention = {inner for i in range(llm.n_blocks) for inner in llm.parts(i).attention.modules()}
    blocks = set(llm.blocks.modules()) - attention | {llm.final_norm}
    found = {}
    for name, module in llm.model.named_modules():
        weights = list(module.parameters())
        if module in blocks and weights and not list(module.children()) and all(w.dim() == 1 for w in weights):
            found[name] = module
    return found


def _after(width: int, scale: bool, bias: bool) -> Callable[[], ScaleAndBias]:
    return lambda: ScaleAndBias(width, scale, bias)
