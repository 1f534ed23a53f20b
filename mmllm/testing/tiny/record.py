"""How a tiny connector is made and what it is fed; the tables of ``mmllm.testing.tiny`` hold these records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

from torch import Tensor

from mmllm import registry
from mmllm.connectors.base import Connector


class LLM(Protocol):
    """An LLM, or what stands for one before it is attached to."""

    @property
    def dim(self) -> int:
        """Width of its embeddings."""
        ...


def none(n: int) -> dict[str, Tensor]:
    """``Features.extras`` of n items: nothing."""
    return {}


@dataclass(frozen=True)
class Tiny:
    """A small connector for tests."""

    make: Callable[[int, LLM], Connector]
    """(width of the features, LLM) -> connector."""
    grid: tuple[int, ...] = (4, 4)
    """Of the features it takes."""
    extras: Callable[[int], dict[str, Tensor]] = none
    """n -> ``Features.extras`` of n items."""
    family: str = "llama"
    """Of an LLM that it works in."""
    encoders: int = 1
    """Whose features it takes, all on the same grid."""

    def __call__(self, *, llm_dim: int, dim: int = 0) -> Any:
        """Make one as the checks of ``mmllm.testing`` ask for it; a connector, not attached to anything."""
        return self.make(dim, SimpleNamespace(dim=llm_dim))


def plain_projector(name: str) -> Tiny:
    """The projector of the registry with every argument at its default, on a map of 4 x 4: what a new one needs."""
    return Tiny(lambda dim, llm: registry.load("connectors", name)(dim=dim, llm_dim=llm.dim))
