"""Which placeholders a stage has met items of: a connector that learns from none would end as it began, unnoticed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from mmllm.batches.loader import StepBatches
from mmllm.connectors.base import Connector, EncoderAdapter
from mmllm.errors import MmllmError
from mmllm.model.model import MultimodalLM

STEPS = 20
"""Optimizer steps after which a connector that learns must have met an item."""


class MetItems:
    """Placeholders met so far on this rank, and what each learning connector reads."""

    def __init__(self, model: MultimodalLM, train: Mapping[str, float], stage: str) -> None:
        """``train``: names of what learns, as in a stage."""
        self._stage = stage
        learning = [
            key for key in model.connectors if any(f"{name}.".startswith(f"connectors.{key}.") for name in train)
        ]
        self._reads = {key: keys for key in learning if (keys := _placeholders(model, key))}
        self.met: set[str] = set()
        """Placeholders of which there was an item."""
        self._n_samples = 0

    def add(self, batches: StepBatches) -> None:
        """Count one step's batches of this rank."""
        self._n_samples += sum(batch.n_samples for batch in batches.micro)
        self.met |= {key for batch in batches.micro for key, items in batch.item_sequence.items() if len(items)}

    def check(self, done: int, met: Iterable[str], n_samples: int) -> None:
        """Raise MmllmError for a connector that learns and met nothing on any rank; ``met`` and ``n_samples`` are over
        all ranks."""
        for key, places in self.unmet(met):
            raise MmllmError(
                f"stage {self._stage}: connectors.{key} learns and has met no item in {done} steps ({n_samples} "
                f"conversations): none of them shows {places}; look at the stage's data with `mmllm inspect`, or "
                f"leave the connector out of stages.{self._stage}.train"
            )

    def unmet(self, met: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Connectors that learn and read none of the placeholders ``met``; which ones they read, for sentences."""
        known = set(met)
        for key, keys in self._reads.items():
            if not keys & known:
                yield key, " or ".join(f"<{one}>" for one in sorted(keys))

    @property
    def n_samples(self) -> int:
        """Conversations so far on this rank."""
        return self._n_samples


def _placeholders(model: MultimodalLM, key: str) -> set[str]:
    """Placeholders whose items a connector learns from; empty for one that learns from text as well."""
    connector = model.connectors[key]
    assert isinstance(connector, Connector)
    if key in model.inputs and not connector.learns_without_items:
        return {key, *(other for other, owner in model.shares.items() if owner == key)}
    if connector.when is not None:
        return set(connector.when)
    if not isinstance(connector, EncoderAdapter):
        return set()
    inside = {name for name in model.encoders if connector in model.adapters_of(name)}
    return {place for place, entry in model.inputs.items() if inside & set(entry.encoders)}
