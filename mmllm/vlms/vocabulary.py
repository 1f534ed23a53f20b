"""How transformers is asked for the tokenizer of a folder, the same wherever one is opened."""

from __future__ import annotations

from typing import Any

AS_ANY_OTHER: dict[str, Any] = {"trust_remote_code": False, "mistral_format": False}
"""Words for ``AutoTokenizer.from_pretrained``.

Where the package mistral_common is installed, transformers (5.23) opens a folder with a ``tekken.json`` by it, as a
tokenizer of another kind that takes no chat template. The same file read as any other vocabulary takes one.
"""
