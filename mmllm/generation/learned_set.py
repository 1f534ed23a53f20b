"""What one run learned, as the engine knows it: a model over frozen parts that others may share, and what names it.

A request that names none is answered by the engine's own model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mmllm.model.inputs import Item
from mmllm.model.reading import Reader, Shown

if TYPE_CHECKING:
    from mmllm.model.model import MultimodalLM


class AdaptedReader(Reader):
    """Shows items with the connectors that work inside encoders, which are in them only as long as it does."""

    def is_adapted(self, key: str) -> bool:
        """Whether a connector works inside an encoder of ``key``."""
        inside = {name for names in self.model.adapts.values() for name in names}
        return not inside.isdisjoint(self.model.inputs[key].encoders)

    def show(self, key: str, items: Sequence[Item], dataset_names: Sequence[str]) -> list[Shown]:
        """Encode and project items of one placeholder, see :class:`Reader`."""
        if any(handle.active for handle in self.model.handles.values()):
            return super().show(key, items, dataset_names)
        with self.model.attached(self.model.adapts):
            return super().show(key, items, dataset_names)


@dataclass(eq=False)
class LearnedSet:
    """A set: the projectors, and the adapters inside LLM and encoders, that one run learned."""

    name: str
    """By which it is asked for. What is kept of its passes is found by the digest alone."""
    digest: str
    """sha256 (hex) of its weights and of all that shapes what it makes of them: frozen parts, preprocessing, words."""
    model: MultimodalLM
    n_tensors: int
    n_bytes: int
    """Of its tensors."""

    @cached_property
    def reader(self) -> Reader:
        """Shows items to the LLM and begins conversations."""
        return AdaptedReader(self.model) if self.model.adapts else Reader(self.model)

    @cached_property
    def can_reuse(self) -> bool:
        """Whether conversations that begin alike can share what was read: not where tokens of items depend on text."""
        return all(not entry.connector.reads_text for entry in self.model.inputs.values())

    @cached_property
    def reads_ahead(self) -> bool:
        """Whether a position reads items of its conversation that start after it."""
        return any(one.reads_later_items for one in self.model.connectors.values())

    @property
    def changes_llm(self) -> bool:
        """Whether connectors of it work inside the LLM."""
        return bool(self.model.handles.keys() - self.model.adapts.keys())
