"""Whether a conversation can be learned from, by its messages and places alone; before any tokenizer is there.

``tokenize.py`` asks for every sample, ``mmllm check`` for the first of a data entry.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmllm.errors import SampleError
from mmllm.messages import placeholders
from mmllm.types import Sample


def check_answers(sample: Sample) -> None:
    """SampleError where the assistant says nothing, or says it in an empty message."""
    spoken = [message for message in sample.messages if message.role == "assistant"]
    if sample.messages and not spoken:
        raise SampleError(f"{sample.name}: no message of the assistant, so there is nothing to learn from it")
    if not all(message.text.strip() for message in spoken):
        raise SampleError(f"{sample.name}: a message of the assistant is empty")


def check_places(sample: Sample, keys: Sequence[str]) -> None:
    """SampleError where media have no connector, or are not as many as their placeholders; ``keys``: of connectors."""
    for key, items in sample.media.items():
        if items and key not in keys:
            known = ", ".join(f"<{one}>" for one in keys) or "none"
            raise SampleError(f"{sample.name}: holds {key} media, and no connector fills <{key}>; known: {known}")
    for key in keys:
        n_places = sum(placeholders.count(message, key) for message in sample.messages)
        n_items = len(sample.media.get(key, ()))
        if n_places != n_items:
            literal = f"; write \\<{key}> where the text itself is meant" if n_places > n_items else ""
            raise SampleError(
                f"{sample.name}: {n_places} <{key}> placeholders in the text, {n_items} items given{literal}"
            )
