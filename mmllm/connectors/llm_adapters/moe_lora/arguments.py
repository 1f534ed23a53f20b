"""Checks of the numbers that a recipe gives ``moe_lora``, as far as they can be made without the LLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from mmllm.connectors.llm_adapters.moe_lora.goals import Balance
from mmllm.errors import MmllmError


def check_sizes(rank: int, alpha: float, dropout: float, temperature: float, attention: int) -> None:
    """Refuse numbers out of range with an MmllmError."""
    if rank < 1 or alpha <= 0 or not 0 <= dropout < 1 or temperature <= 0 or attention < 0:
        raise MmllmError(
            f"moe_lora: rank {rank} must be >= 1, alpha {alpha} and temperature {temperature} > 0, dropout "
            f"{dropout} in [0, 1) and attention {attention} >= 0."
        )


def check_losses(
    top_k: int,
    renormalise: bool,
    supervised: Mapping[str, int] | None,
    supervision_weight: float,
) -> None:
    """Refuse settings by which no router would learn anything, or not what was meant, with an MmllmError."""
    if renormalise and top_k == 1 and not supervision_weight:
        raise MmllmError(
            "moe_lora: with top_k 1 and renormalise every weight is 1 and no router learns from the task; leave "
            "renormalise out, choose top_k >= 2, or supervise."
        )
    if supervision_weight < 0:
        raise MmllmError(f"moe_lora: supervision_weight {supervision_weight} must be >= 0.")
    if bool(supervised) != bool(supervision_weight):
        raise MmllmError("moe_lora: supervised and supervision_weight belong together; give both or neither.")


def check_balance(balance: str, weight: float, top_k: int, shift: float, halves: Mapping[str, int] | None) -> None:
    """Refuse a balance that is unknown or that these settings do not have, with an MmllmError."""
    if balance not in get_args(Balance):
        raise MmllmError(f"moe_lora: balance {balance!r} is unknown; known: {', '.join(get_args(Balance))}.")
    localized = balance == "localized"
    if weight < 0 or (weight and top_k == 0 and not localized):
        raise MmllmError(
            f"moe_lora: balance_weight {weight} must be >= 0, and balance {balance} needs top_k >= 1: where all "
            "experts work there is no load (balance: localized, LoRAMoE's, does without)."
        )
    if bool(halves) != localized or not set((halves or {}).values()) <= {0, 1} or not 0 <= shift <= 1:
        raise MmllmError(
            f"moe_lora: balance localized and halves belong together, halves {halves or {}} name 0 or 1 for each data "
            f"key, and balance_shift {shift:g} must be 0 to 1."
        )
