"""Sums of what connectors report of their passes (``Connector.metrics``): over passes, micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def added(one: Any, other: Any) -> Any:
    """Two reports as one: numbers and tensors add up, lists item by item, mappings key by key."""
    if isinstance(one, Mapping):
        total = dict(one)
        for key, value in other.items():
            # a key may be new: a connector reports only what happened in a pass
            total[key] = added(total[key], value) if key in total else value
        return total
    if isinstance(one, list):
        return [added(a, b) for a, b in zip(one, other, strict=True)]
    return one + other


def plain(report: Any) -> Any:
    """The report with lists and numbers where tensors are; the one place where a device is waited for."""
    if isinstance(report, Mapping):
        return {key: plain(value) for key, value in report.items()}
    if isinstance(report, list):
        return [plain(value) for value in report]
    return report.tolist() if isinstance(report, torch.Tensor) else report
