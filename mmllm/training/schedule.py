"""The learning rate of a stage as a pure function of the step, so that resuming needs only the step number."""

from __future__ import annotations

import math


def lr_scale(step: int, n_steps: int, warmup: float, schedule: str) -> float:
    """Return the share of its peak that the learning rate has in optimizer step ``step`` (0-based) of ``n_steps``.

    Rises linearly over the first ``warmup`` share of the steps (the first step is above zero), then falls to zero
    by ``cosine`` or ``linear``, or stays (``constant``).
    """
    rising = math.ceil(warmup * n_steps)
    if step < rising:
        return (step + 1) / rising  # a first step at 0 would be lost
    if schedule == "constant":
        return 1.0
    done = (step - rising) / max(1, n_steps - rising)
    return 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1 - done
