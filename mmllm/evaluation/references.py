"""What a row names as its right answer, checked once for every reader: a text, a number, or a list of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmllm.errors import MmllmError, shortened


def texts_of(found: Any) -> tuple[str, ...]:
    """The accepted answers of a row as texts; a list names several, any of which is right.

    A list may hold one object an annotator, as the official files of VQAv2 and VizWiz do: its ``answer`` counts.

    Raises MmllmError: there is none (null, or nothing but empty texts), or it is of another kind. ``str`` of a list
    would be a text that no answer equals, and of null the word "None".
    """
    listed = list(found) if isinstance(found, list | tuple) else [found]
    texts = [one.get("answer") if isinstance(one, Mapping) else one for one in listed]
    if not is_given(texts):
        raise MmllmError(f"it has the answer {shortened(found)}; it is a text, a number or a list of them")
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in texts):
        raise MmllmError(f"it has the answer {shortened(found)}; it is a text, a number or a list of them")
    return tuple(map(str, texts))


def is_given(found: Any) -> bool:
    """Whether a value is an answer at all: not null, not a number that is none, not only empty texts."""
    if isinstance(found, list | tuple):
        return any(map(is_given, found))
    if isinstance(found, Mapping):
        return is_given(found.get("answer"))
    return found is not None and found == found and (not isinstance(found, str) or bool(found.strip()))
