"""The tokenizer of a text model of transformers, for processors that read text."""

from __future__ import annotations

from typing import Any


class ModelTokenizer:
    """Loaded by the process that first uses it, and pickled as its path: Qwen's tables alone are 10 MB."""

    def __init__(self, model: str, loaded: Any = None, subfolder: str = "") -> None:
        """``model``: hub id or folder; ``loaded``: its tokenizer, where it is there already; ``subfolder`` of it."""
        self.model, self.subfolder = model, subfolder
        self._loaded = loaded

    @property
    def loaded(self) -> Any:
        """The tokenizer of transformers."""
        if self._loaded is None:
            from transformers import AutoTokenizer

            # threads that ask at once may load it twice; either is as good
            self._loaded = AutoTokenizer.from_pretrained(self.model, subfolder=self.subfolder)
        return self._loaded

    def __reduce__(self) -> tuple[type[ModelTokenizer], tuple[str, None, str]]:
        return ModelTokenizer, (self.model, None, self.subfolder)

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelTokenizer:
        """Return itself: a tokenizer never changes."""
        return self
