"""Words of ``start``: weights that a training begins with, read from a place or computed from data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from mmllm.recipe.section import Positive, Section

STARTS = ("words", "scaled")
"""Starts of a connector that are computed from data instead of read."""


class Start(Section):
    """Weights that a training begins with instead of drawn ones."""

    path: str = Field("", description="another run, a safetensors file or, for a connector, a published VLM")
    stage: str | None = Field(None, description="of a run: that stage instead of its last")
    prefix: str = Field("", description="how the names of the tensors begin in the file or run")
    rename: dict[str, str] = Field(
        default_factory=dict, description="beginning of a name in the file, after prefix: the connector's"
    )
    by: Literal["words", "scaled"] | None = Field(
        None,
        description="instead of a path, for a connector that ends in a linear layer, which is set before the first "
        "step: words: so that its tokens come near the LLM's embeddings of the answers' words (ridge regression); "
        "scaled: so that they differ between items as much as those embeddings are long",
    )
    data: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="with by: the data entry, or several, that items and answers are taken from; default: those of the "
        "first stage that trains the connector",
    )
    items: Positive | None = Field(None, description="with by: how many are taken; default: 2000 for words, 256 else")

    @field_validator("data", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """One entry is a list of one; strict mode takes no list that came by Python."""
        if isinstance(value, str):
            return (value,)
        return tuple(value) if isinstance(value, list) else value

    @model_serializer(mode="wrap")
    def _used(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Words that came later stand there only where they are used: recipes keep their digests."""
        words: dict[str, Any] = plain(self)
        later = ("path",) if self.by is not None else ("by", "data", "items")
        return {word: value for word, value in words.items() if word not in later}

    @model_validator(mode="after")
    def _agrees(self) -> Start:
        """Either read or computed."""
        of_a_place = [word for word in ("stage", "prefix", "rename") if getattr(self, word)]
        if bool(self.path) == (self.by is not None):
            found = "both path and by" if self.path else "neither path nor by"
            raise ValueError(f"found {found}; weights are read from a path, or computed by one of {', '.join(STARTS)}")
        if self.by is not None and of_a_place:
            raise ValueError(f"found {of_a_place[0]}, which is about a path, and by: {self.by} reads none; remove it")
        if self.by is None and (self.data is not None or self.items is not None):
            word = "data" if self.data is not None else "items"
            raise ValueError(f"found {word}, which goes with by, and weights of a path need none; remove it")
        return self


def as_start(value: Any) -> Any:
    """A path alone is ``{path: ...}``, the name of a computed start ``{by: ...}``."""
    if not isinstance(value, str):
        return value
    return {"by": value} if value in STARTS else {"path": value}
