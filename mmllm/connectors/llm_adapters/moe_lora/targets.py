"""Which linear layers of a block get experts; part of ``moe_lora``."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from mmllm.errors import MmllmError
from mmllm.hooks.points import LLMHookPoints

GROUPS = ("mlp", "attention", "all-linear")
"""Words for layers; any other word is the name of one."""


def with_experts(
    llm: LLMHookPoints,
    linears: Mapping[str, Mapping[str, nn.Module]],
    targets: str | list[str],
    router: str,
    attention: int,
) -> dict[str, nn.Module]:
    """Full name -> layer of one block that gets experts, of its ``attention`` and ``mlp`` layers.

    Raises:
        MmllmError: one is outside the MLP, and a router per block or plain LoRA there forbids it.
    """
    both = {**linears["attention"], **linears["mlp"]}
    if isinstance(targets, str) and targets in ("mlp", "attention"):
        chosen = dict(linears[targets])
    else:
        wanted = llm.linears(targets)
        chosen = {name: base for name, base in both.items() if name in wanted}
    outside = [name for name in chosen if name not in linears["mlp"]]
    if router == "block" and outside:
        raise MmllmError(
            f"moe_lora: a router per block reads the MLP's input, so {outside[0]!r} cannot ask it; give targets of "
            "the MLP, or router: linear."
        )
    if attention and outside:
        raise MmllmError(f"moe_lora: {outside[0]!r} has experts already; attention: 0, or other targets.")
    return chosen
