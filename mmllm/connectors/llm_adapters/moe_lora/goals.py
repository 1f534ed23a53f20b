"""Goals of ``moe_lora``'s routers besides the task, checked against the numbers of experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mmllm.errors import MmllmError

Balance = Literal["llava_mole", "switch", "mola", "localized"]
"""See ``stats.RouterStats``."""


@dataclass(frozen=True)
class Goals:
    """Goals that the routers are to learn besides the task."""

    per_block: Sequence[int]
    """Number of experts of each block."""
    balance: Balance
    weight: float
    """Weight of the balance in the loss."""
    top_k: int = 1
    """Experts per token; 0: all."""
    shift: float = 0.0
    """How far ``localized`` parts the halves."""
    halves: Mapping[str, int] = field(default_factory=dict)
    """Data key -> half of the experts, 0 or 1, that its tokens should favour."""
    supervised: Mapping[str, int] = field(default_factory=dict)
    """Data key -> expert that its tokens should choose (-1: none)."""
    supervision: float = 0.0
    """Weight of the cross entropy that teaches it."""

    def __post_init__(self) -> None:
        """Refuse goals that these numbers of experts cannot reach."""
        counts = list(self.per_block)
        if self.weight and self.balance == "llava_mole" and len(set(counts)) > 1:
            raise MmllmError(
                f"moe_lora: balance llava_mole pools all blocks, but they have {counts} experts; use switch."
            )
        if self.weight and self.balance == "localized" and any(count % 2 for count in counts):
            raise MmllmError(f"moe_lora: balance localized has two halves of experts, but blocks have {counts}.")
        if any(not -1 <= expert < min(counts) for expert in self.supervised.values()):
            raise MmllmError(f"moe_lora: supervised {self.supervised} must name experts 0 to {min(counts) - 1}, or -1.")

    def expert_of(self, dataset: str, training: bool) -> int:
        """Expert that tokens of this data key should choose, -1 for none.

        Raises:
            MmllmError: ``training`` on data that ``supervised`` does not name.
        """
        if dataset not in self.supervised and dataset and training:
            known = ", ".join(self.supervised)
            raise MmllmError(
                f"moe_lora: supervised names no expert for the data {dataset!r}; it has {known} (-1 means none)."
            )
        return self.supervised.get(dataset, -1)

    def half_of(self, dataset: str, training: bool) -> int:
        """Half of the experts that tokens of this data key should favour, -1 for neither.

        Raises:
            MmllmError: ``training`` on data that ``halves`` does not name.
        """
        if dataset not in self.halves and dataset and training:
            raise MmllmError(
                f"moe_lora: halves names no half for the data {dataset!r}; it has {', '.join(self.halves)}."
            )
        return self.halves.get(dataset, -1)
