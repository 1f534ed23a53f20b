"""Two plain steps of what a stage trains, for tests of recipes and connectors: what learned by then, what did not."""

from __future__ import annotations

import torch

from mmllm.model.model import MultimodalLM
from mmllm.types import Batch


def two_steps(model: MultimodalLM, batch: Batch) -> tuple[torch.Tensor, list[str]]:
    """Extra loss of the second step, and the names of learning weights without a gradient in it.

    Two, because some (LoRA's A) get a gradient only once others have moved. Gradients are left in place.
    """
    for _ in range(2):
        nll, extra, _ = model(batch)
        (nll / batch.n_labels + extra).backward()
        learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for parameter in learning.values():
                assert parameter.grad is not None and parameter.grad.isfinite().all()
                parameter -= 1e-2 * parameter.grad
    assert torch.isfinite(nll)
    return extra, [name for name, p in learning.items() if p.grad is None or not p.grad.abs().sum() > 0]


def fitted(model: MultimodalLM, batch: Batch, steps: int = 12) -> tuple[list[float], list[str]]:
    """Adam on one batch: the loss before each step, and the weights without a gradient in the first two."""
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(learning.values(), lr=1e-2)
    losses, silent = [], set(learning)
    for step in range(steps):
        optimizer.zero_grad()
        nll, *_ = model(batch)
        nll.backward()
        if step < 2:
            silent -= {name for name, p in learning.items() if p.grad is not None and p.grad.abs().sum() > 0}
        optimizer.step()
        losses.append(float(nll.detach()))
    return losses, sorted(silent)
