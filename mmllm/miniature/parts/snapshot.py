"""Snapshots of a part's training, so that a killed build goes on where it stopped, with the same numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

NAME = "snapshot.pt"


def save_snapshot(work: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], step: int) -> None:
    """Writes weights, optimizer states and the step, and puts them in place in one rename."""
    work.mkdir(parents=True, exist_ok=True)
    state = {"model": model.state_dict(), "optimizers": [opt.state_dict() for opt in optimizers], "step": step}
    torch.save(state, work / (NAME + ".tmp"))
    os.replace(work / (NAME + ".tmp"), work / NAME)


def load_snapshot(work: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Restores the last snapshot of this machine's own build, if any; returns the steps already done."""
    path = work / NAME
    if not path.is_file():
        return 0
    # weights_only: nothing in it may run
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for opt, saved in zip(optimizers, state["optimizers"], strict=True):
        opt.load_state_dict(saved)
    return int(state["step"])
