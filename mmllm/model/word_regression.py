"""``start: words``: a linear layer by ridge regression onto the LLM's embeddings of words; no pass of the LLM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmllm.errors import MmllmError

PENALTIES = [10.0**exponent for exponent in range(-6, 3)]
"""Ridge penalties that are tried, as shares of the mean eigenvalue of the inputs' covariance."""


class WordRegression:
    """Sums of a ridge regression (Hoerl and Kennard 1970) whose penalty is chosen by generalised cross-validation
    (Golub, Heath and Wahba 1979); rows are seen once and not kept."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        width, wide = layer.in_features, layer.out_features
        zeros = {"dtype": torch.float64, "device": layer.weight.device}
        self.n_rows = 0
        self._inputs, self._targets = torch.zeros(width, **zeros), torch.zeros(wide, **zeros)  # type: ignore[call-overload]
        self._square, self._cross = torch.zeros(width, width, **zeros), torch.zeros(width, wide, **zeros)  # type: ignore[call-overload]
        self._norm = torch.zeros((), **zeros)  # type: ignore[call-overload]

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Rows float[M, in] of what enters the layer, and what it should give for them, float[M, out]."""
        x, y = inputs.double(), targets.double()
        self.n_rows += len(x)
        self._inputs += x.sum(0)
        self._targets += y.sum(0)
        self._square += x.T @ x
        self._cross += x.T @ y
        self._norm += y.square().sum()

    @torch.no_grad()
    def solve(self) -> float:
        """Set the layer; the share of the targets' variance that it explains, corrected for what it fits to.

        Raises:
            MmllmError: the targets, or the inputs, are all alike.
        """
        n, biased = self.n_rows, self.layer.bias is not None
        mean_x, mean_y = self._inputs / n, self._targets / n
        square, cross, norm = self._square, self._cross, self._norm
        if biased:
            square = square - n * torch.outer(mean_x, mean_x)
            cross = cross - n * torch.outer(mean_x, mean_y)
            norm = norm - n * mean_y.square().sum()
        values, vectors = torch.linalg.eigh(square)
        values = values.clamp(min=0)
        if not (float(norm) > 0 and float(values.sum()) > 0):
            raise MmllmError("start: words: items or answers are all alike; there is nothing to tell apart.")
        turned = vectors.T @ cross
        best, chosen, explained = float("inf"), values, 0.0
        for share in PENALTIES:
            shrunk = values + share * values.mean()
            # squared error of the fit, and the number of free values that the penalty leaves it
            error = norm - 2 * (turned.square() / shrunk[:, None]).sum()
            error = error + (values[:, None] * (turned / shrunk[:, None]).square()).sum()
            free = n - biased - float((values / shrunk).sum())
            if free > 0 and float(error) / free**2 < best:
                best, chosen = float(error) / free**2, shrunk
                explained = 1 - float(error / norm) * (n - biased) / free
        weight = vectors @ (turned / chosen[:, None])
        self.layer.weight.copy_(weight.T)
        if biased:
            self.layer.bias.copy_(mean_y - mean_x @ weight)
        return explained
