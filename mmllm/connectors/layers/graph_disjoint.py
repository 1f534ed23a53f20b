"""N graphs as one disjoint graph, torch_geometric's form of a batch; between features and what learns on graphs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmllm.errors import MmllmError
from mmllm.types import Features


@dataclass(frozen=True)
class Nodes:
    """All nodes of N items after each other."""

    x: Tensor
    """float[nodes, D]."""
    edges: Tensor
    """int64[2, E], (sender, receiver); none where the features say nothing of edges."""
    owners: Tensor
    """int64[nodes], item of each node, ascending."""
    targets: Tensor
    """int64[N], the node each item is about; -1: none."""
    mask: Tensor
    """bool[N, T], where the nodes were."""

    def with_states(self, x: Tensor) -> Nodes:
        """The same graphs with other states float[nodes, W]."""
        return replace(self, x=x)

    def padded(self, values: Tensor) -> Tensor:
        """Put float[nodes, W] back at their places: float[N, T, W], zero at padding."""
        return values.new_zeros(*self.mask.shape, values.shape[1]).masked_scatter(self.mask[..., None], values)

    def about(self, values: Tensor) -> Tensor:
        """Row of float[nodes, W] of each item's own node, the mean of its nodes where it has none: float[N, W]."""
        padded = self.padded(values)
        mean = padded.sum(dim=1) / self.mask.sum(dim=1, keepdim=True).to(values.dtype)
        return torch.where(self.targets[:, None] >= 0, values[self.targets.clamp(min=0)], mean)

    def centred(self, name: str) -> Tensor:
        """Node that each item is about, int64[N]; MmllmError where one has none."""
        if bool((self.targets < 0).any()):
            raise MmllmError(f"{name} needs to know the node each graph is about: write its number behind it, `g#17`.")
        return self.targets


def disjoint(features: Features) -> Nodes:
    """Lay the items of a batch side by side; items of an encoder without edges are nodes alone."""
    mask = features.mask
    sizes = mask.sum(dim=1)
    starts = sizes.cumsum(0) - sizes
    edges = features.extras["edges"] if "edges" in features.extras else starts.new_zeros(len(starts), 2, 0)
    targets = features.extras["target"] if "target" in features.extras else torch.full_like(starts, -1)
    real = edges[:, 0] >= 0
    return Nodes(
        x=features.concatenated()[mask],
        edges=(edges + starts[:, None, None]).transpose(0, 1)[:, real],
        owners=torch.arange(len(starts), device=mask.device).repeat_interleave(sizes),
        targets=torch.where(targets >= 0, targets + starts, -1),
        mask=mask,
    )
