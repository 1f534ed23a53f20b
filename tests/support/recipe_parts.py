"""Parts that exist only as signatures: recipes in tests name them, so that sentences stay the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mmllm.connectors import base
from mmllm.datasets.base import Dataset
from mmllm.encoders.base import Encoder as FrozenEncoder
from mmllm.types import Sample


def never() -> None:
    """What every ``__init__`` here does."""
    raise AssertionError("reading a recipe must not build its parts")


class Base(base.Projector):
    """What projectors share."""

    def __init__(self, *, dim: int, llm_dim: int, bias: bool = True) -> None:
        never()


class Encoder(FrozenEncoder):
    """An encoder."""

    def __init__(self, *, model: str, layers: Sequence[int] = (-2,), size: int | None = None) -> None:
        never()


class Bare(base.EncoderAdapter):
    """What adapters share."""

    def __init__(self, *, llm_dim: int, rank: int = 8) -> None:
        never()


class Projector(Base):
    """A connector between encoder and LLM."""

    def __init__(self, *, grid: tuple[int, int], act: Literal["gelu", "relu"] = "gelu", **base: Any) -> None:
        super().__init__(**base)


class Inherited(Projector):
    """A connector with its parent's arguments."""


class Several(Base, base.SeveralEncoders):
    """A connector that takes the features of several encoders."""


class Inner(base.LLMAdapter):
    """A connector inside the LLM."""

    def __init__(self, llm_dim: int, rank: int = 8, scale: float = 1.0) -> None:
        never()


class Adapter(Bare):
    """A connector inside encoders."""


class Aligner(Base, base.EncoderAdapter):
    """A connector that takes features and works inside encoders too."""


class Kindless(base.Connector):
    """A connector of no kind: nobody could tell where it works."""


class Nothing(Dataset):
    """A dataset without samples."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Sample:
        raise IndexError


class Source(Nothing):
    """A dataset."""

    def __init__(self, *, path: str, media: str | None = None) -> None:
        never()


class Open(Nothing):
    """A dataset that takes anything."""

    def __init__(self, **anything: Any) -> None:
        never()


class Odd(Nothing):
    """A dataset with an argument of a class that no recipe can write."""

    def __init__(self, *, path: str, cut: base.Connector | None = None) -> None:
        never()
