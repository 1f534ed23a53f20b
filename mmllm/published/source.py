"""A published model's folder, opened: configuration, processor, tokenizer; and what becomes of it in a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoProcessor

from mmllm.errors import MmllmError
from mmllm.processors.image import WHOLE
from mmllm.published.architectures import TABLE
from mmllm.vlms.families import FAMILIES, Family, family_of


@dataclass(frozen=True)
class Sections:
    """What of a recipe a published model is, beside its LLM."""

    encoders: dict[str, dict[str, Any]]
    connectors: dict[str, dict[str, Any]]
    written: dict[str, str] = field(default_factory=dict)
    """Text in its chat template -> what the run's has there."""


class Source:
    """A checkpoint as transformers opens it, weights aside."""

    def __init__(self, path: str, tiles: bool = True) -> None:
        """Read configuration and processor.

        Args:
            path: folder or hub id.
            tiles: False: pictures are to be taken whole where the model would cut them into tiles.

        Raises:
            MmllmError: it is no published model that is known, or lacks a processor.
        """
        self.path, self.tiles = path, tiles
        self.config: Any = _opened(path, "configuration", AutoConfig)
        family = family_of(self.config)
        if family is None or self.config.model_type not in TABLE:
            known = ", ".join(FAMILIES[kind].name for kind in TABLE)
            name = self.config.model_type if family is None else family.name
            raise MmllmError(
                f"{path} is a {name}, which cannot be imported; known are {known}. Its parts may still be usable one "
                "by one: llm: {path: ...}, encoders with model: ..., connectors with start: ... (docs/recipes.md)"
            )
        self.family: Family = family
        self.processor: Any = _opened(path, "processor", AutoProcessor)
        self.tokenizer: Any = self.processor.tokenizer

    @property
    def pictures(self) -> Any:
        """Its image processor."""
        return self.processor.image_processor

    def whole(self) -> dict[str, bool]:
        """Words for a call of its processor that leave a picture in one piece, where that is wanted."""
        return {} if self.tiles else {word: False for word in WHOLE if hasattr(self.pictures, word)}

    def token(self, number: int) -> str:
        """The token with this id."""
        return str(self.tokenizer.convert_ids_to_tokens(number))


def _opened(path: str, what: str, kind: Any) -> Any:
    try:
        return kind.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        first = str(error).strip().partition("\n")[0].rstrip(".")
        hint = "" if Path(path).exists() or "/" in path else "; give a folder, or the name of a model on the hub"
        raise MmllmError(f"{path}: its {what} cannot be read ({first}){hint}") from error
