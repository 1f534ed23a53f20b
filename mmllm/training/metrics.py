"""Metrics of connectors in a training step, over all ranks, in short form: for ``metrics.jsonl`` and for the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Protocol

from mmllm.model.metrics import added


class Counting(Protocol):
    """The part of a connector that is used here: it alone knows what its metrics are."""

    def summary(self, total: Mapping[str, Any]) -> Mapping[str, Any]:
        """Short form of its summed metrics."""
        ...

    def headline(self, summary: Mapping[str, Any]) -> str:
        """A few words of that."""
        ...


def shortened(connectors: Mapping[str, Counting], reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Connector key -> what a line of metrics holds of it (``Connector.summary``); nothing where it counted nothing.

    ``reports``: every rank's metrics as plain numbers, connector key -> ``Connector.metrics``.
    """
    short = {key: dict(connectors[key].summary(total)) for key, total in reduce(added, reports).items()}
    return {key: values for key, values in short.items() if values}


def line(connectors: Mapping[str, Counting], usage: Mapping[str, Mapping[str, Any]]) -> str:
    """One short line for the log, of what :func:`shortened` gave: ``moe: an expert's share of its block 0.12-0.55``."""
    parts = {key: connectors[key].headline(short) for key, short in usage.items()}
    return "  ".join(f"{key}: {words}" for key, words in parts.items() if words)
