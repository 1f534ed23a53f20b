"""Bidirectional stretches of padded rows: what ``attention`` adds there to the masks that transformers makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mmllm.types import Bidirectional


@dataclass(frozen=True)
class PaddedStretches:
    """The stretches of one pass over R padded rows of S positions, none of which was read before."""

    numbers: torch.Tensor
    """int64[R, S], which stretch a position is in; -1: none."""
    windowed: torch.Tensor
    """bool[n], whether a window ends what is seen inside each."""
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict, compare=False)
    """Window -> who sees whom, made once for all layers."""

    @classmethod
    def of(cls, stretches: Sequence[Bidirectional], like: torch.Tensor) -> PaddedStretches | None:
        """Stretches that count over the flattened R * S of ``like`` bool[R, S]; None: there are none."""
        if not stretches:
            return None
        numbers = torch.full((like.numel(),), -1, device=like.device)
        for number, one in enumerate(stretches):
            numbers[one.start : one.end] = number
        return cls(numbers.view(like.shape), torch.tensor([one.windowed for one in stretches], device=like.device))

    def over(self, mask: torch.Tensor, window: int | None) -> torch.Tensor:
        """``mask`` bool[R or 1, 1, S, S], where positions of one stretch see each other too."""
        if window not in self.masks:
            queries, keys = self.numbers[:, :, None], self.numbers[:, None, :]
            same = (queries == keys) & (queries >= 0)
            if window is not None:
                places = torch.arange(self.numbers.shape[1], device=mask.device)
                near = places[:, None] - places < window
                same &= near | ~self.windowed[self.numbers.clamp(min=0)][:, :, None]
            self.masks[window] = same[:, None]
        return mask | self.masks[window]
