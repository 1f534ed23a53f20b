"""The files by which a folder is known to hold a tokenizer."""

from __future__ import annotations

TEKKEN = "tekken.json"
"""Name of the tokenizer of Mistral AI's models."""
FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    TEKKEN, "added_tokens.json",
)  # fmt: skip
"""A folder with a tokenizer has at least one of them."""
