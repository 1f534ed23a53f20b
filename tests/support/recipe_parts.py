"""Parts that exist only as signatures: recipes in tests name them, so that sentences stay the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal


class Base:
    """What projectors share."""

    def __init__(self, *, dim: int, llm_dim: int, bias: bool = True) -> None:
        raise AssertionError("reading a recipe must not build its parts")


class Encoder:
    """An encoder."""

    def __init__(self, *, model: str, layers: Sequence[int] = (-2,), size: int | None = None) -> None:
        raise AssertionError("reading a recipe must not build its parts")


class Bare:
    """What adapters share."""

    def __init__(self, *, llm_dim: int, rank: int = 8) -> None:
        raise AssertionError("reading a recipe must not build its parts")


class Projector(Base):
    """A connector between encoder and LLM."""

    def __init__(self, *, grid: tuple[int, int], act: Literal["gelu", "relu"] = "gelu", **base: Any) -> None:
        super().__init__(**base)


class Inherited(Projector):
    """A connector with its parent's arguments."""


class Inner:
    """A connector inside the LLM."""

    def __init__(self, llm_dim: int, rank: int = 8, scale: float = 1.0) -> None:
        raise AssertionError("reading a recipe must not build its parts")


class Adapter(Bare):
    """A connector inside encoders."""

    def adapt(self, encoders: Any) -> None:
        """Never called."""


class Aligner(Base):
    """A connector that takes features and works inside encoders too."""

    def adapt(self, encoders: Any) -> None:
        """Never called."""


class Open:
    """A connector that takes anything."""

    def __init__(self, **anything: Any) -> None:
        raise AssertionError("reading a recipe must not build its parts")


class Source:
    """A data source."""

    def __init__(self, *, path: str, media: str | None = None) -> None:
        raise AssertionError("reading a recipe must not build its parts")
