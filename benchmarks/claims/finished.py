"""Record of a trained run, between ``single`` (which makes it) and the measures of ``experiment`` (which ask it)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmllm.model.model import MultimodalLM
    from mmllm.recipe.models import Recipe


@dataclass(frozen=True)
class Finished:
    """A trained run as measures see it."""

    recipe: Recipe
    run: Path
    """The run folder of mmllm, with ``metrics.jsonl``."""
    model: MultimodalLM
    """In eval mode, with the learned weights."""
    starts: tuple[Path, ...] = ()
    """Folders of the runs it started from, see ``learned``."""
    split: str = "test"
    """The questions it is asked: ``tuning`` in the pilot runs that choose a learning rate."""
