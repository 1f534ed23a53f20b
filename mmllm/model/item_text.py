"""What of the LLM's text belongs to an item of a placeholder: its token, and what is written around and between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from mmllm.recipe.item_texts import StepText, TileText
from mmllm.recipe.models import ComponentSpec


@dataclass(frozen=True)
class ItemText:
    """The words of a connector that say how the LLM reads its items; without any an item is its tokens alone."""

    times: str | None = None
    """Text before the tokens of each step in time; ``{s:.1f}`` is its time in seconds, ``{n}`` its number."""
    steps: StepText | None = None
    """Text at each step in time, control tokens included."""
    token: str | None = None
    """The LLM's own token for an item, see :class:`~mmllm.types.Place`."""
    around: tuple[str, str] = ("", "")
    """Text in front of every item and behind it."""
    tiles: TileText | None = None
    """Text between the tiles of a picture."""
    rows: str | None = None
    """Text between the rows of a picture's tokens."""
    bidirectional: bool = False
    """Whether an item's tokens see each other in both directions."""

    @property
    def fronted(self) -> bool:
        """Whether text in front of ``around``'s depends on the item."""
        return self.tiles is not None and bool(self.tiles.front)

    @classmethod
    def of(cls, part: ComponentSpec) -> Self:
        """Those of a recipe's connector."""
        both = part.attends == "bidirectional"
        return cls(part.times, part.steps, part.token, part.around or ("", ""), part.tiles, part.rows, both)
