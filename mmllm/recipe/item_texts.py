"""A connector's words for what surrounds the tokens of an item: text between tiles and steps, the ends of rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

from pydantic import Field

from mmllm.recipe.section import Positive, Section


class TileText(Section):
    """Text of the LLM between the tiles of a picture, control tokens included."""

    tile: str = Field("", description="before each tile; {row}, {col} and {n} count from 1")
    col: str = Field("", description="between the tiles of a row")
    row: str = Field("", description="behind the last tile of a row")
    whole: str = Field("", description="before the view of all of the picture, where there are tiles")
    alone: str = Field("", description="before the only view of a picture that is not cut")
    viewed: str = Field("", description="behind the view of all of the picture, where it stands in front of tiles")
    front: str = Field("", description="in front of `around`'s text, where there are tiles")


class StepText(Section):
    """Text of the LLM at the steps in time of a clip, control tokens included."""

    begin: str = Field(
        "",
        description="before the first step; {steps}: how many there are, {words}: the same in English words, "
        "{duration}: how long the clip lasts, H:MM:SS",
    )
    step: str = Field(
        "",
        description="before the tokens of each step; {s:.1f}: its seconds, {minutes:02d}:{seconds:02d}: the same, {n}: "
        "its number, from 1",
    )
    between: str = Field("", description="behind the tokens of each step but the last, behind which is `around`'s")

    @property
    def tells_duration(self) -> bool:
        """Whether it says how long a clip lasts."""
        return "{duration" in self.begin

    def filled(self, times: Sequence[float], lasts: float = 0.0) -> list[str]:
        """What stands in front of each step, of steps at these times in seconds of a clip that lasts so many."""
        found = []
        for number, s in enumerate(times):
            clock = {"minutes": int(s // 60), "seconds": int(s % 60)}
            before = self.between if number else self._begun(len(times), lasts)
            found.append(before + self.step.format(n=number + 1, s=s, **clock))
        return found

    def _begun(self, steps: int, lasts: float) -> str:
        words = _in_words(steps) if "{words" in self.begin else ""
        return self.begin.format(steps=steps, words=words, duration=timedelta(seconds=int(lasts)))


def _in_words(number: int) -> str:
    """A number as English says it: twenty-one."""
    from num2words import num2words  # the package that SmolVLM's processor writes it with

    return str(num2words(number))


class Stitching(Section):
    """How the tokens of a picture's tiles become one map behind the connector; of a clip, what ends it."""

    newline: Literal["row", "end", "none", "every", "marks"] = Field(
        "row",
        description="a learned vector behind each row of the map, behind every item, or none; every: behind rows of "
        "the view as well, and another between view and map; marks: five around a picture, behind its view and "
        "between its tiles, which stay tiles",
    )
    unpad: bool = Field(True, description="cut off the borders that a picture was given (rule: resolutions)")
    most: Positive | None = Field(None, description="shrink a map of more tokens than this many tiles have")
