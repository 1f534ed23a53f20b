"""From patch tokens to the 4 x 4 cells of the world's grid: pooling and heads shared by both encoders' training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmllm.miniature.parts.pictures import COLUMN, LABELS

GRID = 4
# Key and value are the hardest to read and decide whether documents work.
WEIGHTS = {"place": 0.1, "color": 1.0, "shape": 1.0, "digit": 1.0, "key": 2.0, "value": 3.0, "kind": 0.2}


def pool_cells(patches: Tensor) -> Tensor:
    """Means over 2 x 2 patches: float[N, 64, D] -> float[N, 16, D]."""
    n, _, width = patches.shape
    return patches.reshape(n, GRID, 2, GRID, 2, width).mean(dim=(2, 4)).reshape(n, GRID * GRID, width)


class CellHeads(nn.Module):
    """One linear classifier per label on each cell, behind a LayerNorm; thrown away after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(names)) for name, names in LABELS.items()})

    def forward(self, cells: Tensor) -> dict[str, Tensor]:
        """Logits by label: float[N, 16, classes] from cells float[N, 16, D]."""
        normed = self.norm(cells)
        return {name: head(normed) for name, head in self.heads.items()}


def cell_loss(logits: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Weighted sum of cross-entropies; cells where a label is present count as much as all those where it is not."""
    total = torch.zeros(())
    for name, scores in logits.items():
        wanted = labels[..., COLUMN[name]].flatten()
        losses = nn.functional.cross_entropy(scores.flatten(0, 1).float(), wanted, reduction="none")
        present = (wanted > 0).float()
        both = (losses * present).sum() / present.sum().clamp(min=1)
        both = both + (losses * (1 - present)).sum() / (1 - present).sum().clamp(min=1)
        total = total + WEIGHTS[name] * both
    return total
