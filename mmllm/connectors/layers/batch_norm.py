"""Batch normalisation over real tokens only, the same on all ranks; part of the conformer adapter inside encoders."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


class RealBatchNorm(nn.Module):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` per channel, padding and blank items left out of the statistics.

    While ``weight`` learns and the module is in train mode, mean and variance are those of this rank's real tokens (so
    there, and only there, an item's result depends on its neighbours), and the running ones move towards those of all
    ranks together. Else, also in a stage that freezes it, the running ones are used: they are buffers, so checkpoints
    hold them and every rank has the same.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, width: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        """``width`` channels; ``momentum`` is the share of a batch in the running statistics."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))
        self.momentum, self.eps = momentum, eps

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """float[..., C] with bool[...] True at tokens that count -> float[..., C]."""
        mean, var = self.mean, self.var
        if self.training and self.weight.requires_grad:
            found = x[real]
            self._learn(found.detach())
            if len(found):
                mean, var = found.mean(0), found.var(0, unbiased=False)
        return (x - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias

    @torch.no_grad()
    def _learn(self, found: Tensor) -> None:
        """Move the running statistics; every rank is here, as each runs its encoders once per batch."""
        # float64: the variance is a difference of large sums
        sums = torch.cat([found.new_tensor([len(found)]), found.sum(0), found.square().sum(0)]).double()
        if dist.is_initialized():
            dist.all_reduce(sums)
        count, first, second = sums[0], *sums[1:].chunk(2)
        # no token anywhere: nothing to learn, and no branch that needs the number on the host
        share = self.momentum * (count > 1)
        mean = first / count.clamp(min=1)
        # unbiased, as torch's own running variance
        var = (second / count.clamp(min=1) - mean.square()).clamp(min=0) * count / (count - 1).clamp(min=1)
        self.mean.lerp_(mean.to(self.mean.dtype), share.to(self.mean.dtype))
        self.var.lerp_(var.to(self.var.dtype), share.to(self.var.dtype))
