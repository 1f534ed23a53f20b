"""What every section of a recipe is: a frozen pydantic model without unknown words."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A part of a recipe: no unknown words, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
