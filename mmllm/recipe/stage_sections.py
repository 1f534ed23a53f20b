"""Words of a stage, and of ``eval`` and ``serve``, that are sections of their own; part of ``models``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from mmllm.recipe.part_arguments import shown
from mmllm.recipe.section import Positive, Section


class Cache(Section):
    """Features of frozen encoders that are computed once for every item and kept on disk."""

    dir: str | None = Field(
        None, min_length=1, description="folder that runs share; default: features in mmllm's cache ($MMLLM_CACHE)"
    )
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float16", description="what features are kept as, and rounded to before use; float32 rounds nothing"
    )
    encoders: tuple[str, ...] | None = Field(None, min_length=1, description="of these alone; default: of all")

    @field_validator("encoders", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Strict mode takes no list that came by Python, as this one does."""
        return tuple(value) if isinstance(value, list) else value


class SharePrefix(Section):
    """How far conversations about the same media move to share their beginning in one step."""

    most: Positive = Field(8, description="conversations about the same media in one step at most")
    reach: Positive | None = Field(
        None, description="samples of an epoch's order among which they are sought; default: the whole epoch"
    )


class Distill(Section):
    """The frozen LLM as the teacher of what is in front of it."""

    by: Literal["text"] = Field(
        "text", description="what the teacher reads in an item's place: its text, which the data give (`texts`)"
    )
    weight: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="share of the divergence from the teacher in the loss; the labels have the rest"
    )


def switch(kind: type[Section]) -> Callable[[Any], Any]:
    """``true`` is a section as it comes, ``false`` none."""

    def checked(value: Any) -> Any:
        if isinstance(value, bool):
            return {} if value else None
        if value is not None and not isinstance(value, dict | kind):
            words = ", ".join(kind.model_fields)
            raise ValueError(f"found {shown(value)}, expected true, false or a mapping of {words}")
        return value

    return checked
