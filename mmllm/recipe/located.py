"""Where a recipe's relative paths lead: beside the recipe first, then the current folder, then where it was trained."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmllm.recipe.shaping import LLM_PLACES, PLACES
from mmllm.recipe.starts import STARTS

_BRACES = re.compile(r"\{[^}]*\}")
RECIPE = "recipe.yaml"
"""File of a run folder that holds the recipe of the run."""
ORIGIN = "origin.json"
"""File of a run folder that holds the folder its training was started in."""


def locate(data: dict[str, Any], folders: Sequence[Path]) -> list[str]:
    """Rewrite the relative paths of a recipe's YAML (in place) that are found in one of ``folders``.

    What lies in none of them may lie in the run that the recipe begins with, as an imported run's chat template does.
    One that is found in none stays as it is: it may be a name on the hub, or be missing. One found in the current
    folder stays too. Returns a clause for each that another folder decided.
    """
    here = Path.cwd()
    said = []
    begun = _begun(data, (*folders[:1], here, *folders[1:]))
    for where, part, word in _places(data):
        value = part[word]
        if not isinstance(value, str) or not value or "://" in value or os.path.isabs(value) or value.startswith("~"):
            continue
        # `media: .` of a run was the folder it was trained in; the run's own folder is there too, and is never meant
        own = () if set(value) <= {".", "/"} and is_run(folders[0]) else folders[:1]
        found = next((folder for folder in (*own, here, *folders[1:], *begun) if _exists(folder, value)), None)
        if found is None or found.resolve() == here:
            continue
        # relative to where we are if it lies below, so that a run folder of it can move along
        target = (found / value).resolve()
        part[word] = os.path.relpath(target, here) if target.is_relative_to(here) else str(target)
        said.append(f"{where} is {part[word]}")
    return said


def _begun(data: dict[str, Any], folders: Sequence[Path]) -> list[Path]:
    """The run that a recipe says it starts from, where it is one."""
    start = data.get("start")
    path = start.get("path") if isinstance(start, dict) else start
    if not isinstance(path, str) or not path:
        return []
    return [folder / path for folder in folders if is_run(folder / path)][:1]


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / ORIGIN).is_file() or (folder / "stages").is_dir()


def run_folder(recipe: Path, name: str, out: Path | None) -> Path:
    """Return where a recipe of this ``name`` is trained: ``out``, the run whose recipe it is, or ``runs/<name>``."""
    if out is not None:
        return out
    return run_of(recipe) or Path("runs") / name


def run_of(recipe: Path) -> Path | None:
    """Return the run whose recipe a file is; it may have been given another folder than its name says, or been moved.

    None for any other file.
    """
    return recipe.parent if recipe.name == RECIPE and is_run(recipe.parent) else None


def _places(data: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(dotted path, mapping, word) of every value that may be a place."""
    sections: dict[str, Any] = {"llm": {"": data.get("llm")}}
    yield from _of_part("", {"start": data["start"]} if isinstance(data.get("start"), dict) else {})
    if isinstance(data.get("start"), str):
        yield "start", data, "start"
    sections |= {name: data.get(name) for name in ("encoders", "connectors", "data")}
    evaluation = data.get("eval")
    sections["eval.benchmarks"] = evaluation.get("benchmarks") if isinstance(evaluation, dict) else None
    for section, parts in sections.items():
        if not isinstance(parts, dict):
            continue
        for key, part in parts.items():
            yield from _of_part(f"{section}.{key}".rstrip("."), part)


def _of_part(where: str, part: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    if not isinstance(part, dict):
        return
    for word, value in part.items():
        if word in (LLM_PLACES if where == "llm" else PLACES) and not (word == "start" and value in STARTS):
            yield f"{where}.{word}".lstrip("."), part, word
        yield from _of_part(f"{where}.{word}".lstrip("."), value)  # an encoder inside an encoder


def _exists(folder: Path, value: str) -> bool:
    """Whether ``value`` is there below a folder; a pattern (``part-*.json``, ``{000..099}.tar``) by what it matches."""
    try:
        if any(sign in value for sign in "*{"):
            return next(folder.glob(_BRACES.sub("*", value)), None) is not None
        return (folder / value).exists()
    except (OSError, ValueError):  # longer than a file system's names, or no pattern
        return False
