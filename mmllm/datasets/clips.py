"""Questions about clips, alike in training and evaluation: prompts, lettered options, files by id."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase

from mmllm.errors import MmllmError

SHORT_ANSWER = "<video>\n{question}\nAnswer the question using a single word or phrase."
LETTER_ANSWER = "<video>\n{question}\nAnswer with the option's letter from the given choices directly."
SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov")
"""Endings tried, in this order, where a data set names its clips without one."""


def lettered(question: str, options: Sequence[str]) -> str:
    """The question with its options below, one a line: ``A. on the left``."""
    if len(options) > len(ascii_uppercase):
        raise MmllmError(f'"{question}" has {len(options)} options; at most {len(ascii_uppercase)} can be lettered.')
    letters = ascii_uppercase[: len(options)]
    lines = (f"{letter}. {option}" for letter, option in zip(letters, options, strict=True))
    return "\n".join((question, *lines))


def mapped(path: Path) -> dict[str, str]:
    """Video id -> name of its file: a JSON object, or lines ``<name> <id>`` as in MSVD's youtube_mapping.txt.

    Raises MmllmError where the file (which must exist) is neither.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        try:
            found = json.loads(text)
        except ValueError as error:
            raise MmllmError(f"{path} is not JSON ({error}); it maps video ids to files") from error
        if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
            raise MmllmError(f"{path} is not an object of video id and file")
        return found
    rows = [line.split() for line in text.splitlines() if line.strip()]
    wrong = next((number for number, row in enumerate(rows, 1) if len(row) != 2), None)
    if wrong is not None or not rows:
        raise MmllmError(f"{path}, line {wrong or 1}: it is not a file's name and a video id, like `abc_5_15 vid1`")
    return {video: name for name, video in rows}


def clip(folder: Path, name: str) -> Path:
    """The file of a clip: the name as it is where it has an ending, else with the first of SUFFIXES that is there."""
    named = folder / name
    if named.suffix in SUFFIXES:
        return named
    # not with_suffix: ids of YouTube may hold a dot
    tried = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((path for path in tried if path.is_file()), tried[0])
