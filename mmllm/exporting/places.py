"""Places on this machine, which must not leave it: names in their stead, and the search for those that are left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mmllm.errors import MmllmError
from mmllm.recipe.load import dump, parse
from mmllm.recipe.models import Recipe
from mmllm.recipe.shaping import LLM_PLACES

VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt")
"""Files of which some have tokens like /usr/local, which are no places."""
ABSOLUTE = re.compile(r"""["'\s(](/[^"'\s()/]+(?:/[^"'\s()/]+)+)""")
"""An absolute path in a text, of two parts or more."""
TEXTS = (".json", ".jsonl", ".md", ".yaml", ".jinja", ".txt", ".model", "")
"""Endings of files that are searched."""


def shown(place: str) -> str:
    """A place as others may read it: a name on the hub as it is, of a local folder or file its own name."""
    return Path(place).name if is_local(place) else place


def is_local(place: str) -> bool:
    """Whether it is a path of this machine and not a name on the hub."""
    return Path(place).exists() or place.startswith(("/", "~", ".")) or place.count("/") > 1


def portable(recipe: Recipe) -> Recipe:
    """The recipe with the name of what lies there in place of every absolute path."""
    words = _named(yaml.safe_load(dump(recipe)))
    return parse(yaml.safe_dump(words, sort_keys=False), stages=bool(recipe.stages))


def nameless(config: Any) -> None:
    """Take the place that a model was loaded from out of its configuration and those inside it, where it is local."""
    for one in (config, *(getattr(config, name) for name in config.sub_configs)):
        # private in transformers (read in 5.23), and written to the file for the inner ones
        if one is not None and is_local(str(one._name_or_path)):
            one._name_or_path = ""


def _named(value: Any, word: str = "") -> Any:
    """``word``: the recipe's word for the value; what begins with a slash may be text elsewhere."""
    if isinstance(value, dict):
        return {key: _named(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_named(inner, word) for inner in value]
    place = isinstance(value, str) and value.startswith("/") and (word in LLM_PLACES or Path(value).exists())
    return Path(value).name if place else value


def check_places(folder: Path, recipe: Recipe | None, *others: Path) -> None:
    """Search the texts of a folder for paths of this machine.

    Args:
        folder: what is to leave it.
        recipe: places that it names are searched for.
        others: further ones.

    Raises:
        MmllmError: a file names one; says which.
    """
    places = {
        str(Path(place).resolve())
        for place in (() if recipe is None else _strings(yaml.safe_load(dump(recipe))))
        if is_local(place)
    }
    places |= {str(other.resolve()) for other in (*others, folder, Path.cwd(), Path.home())}
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or file.suffix not in TEXTS:
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        # one folder below the root is no secret, and a word of many texts
        found = next((place for place in sorted(places, reverse=True) if place.count("/") > 1 and place in text), None)
        if found is None and file.name not in VOCABULARIES:
            found = next((place for place in ABSOLUTE.findall(text) if Path(place).exists()), None)
        if found is not None:
            raise MmllmError(
                f"{file.relative_to(folder)} names {found}, a place of this machine, which nobody else has; name what "
                "lies there by its name on the hub (path=value) and export again"
            )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
