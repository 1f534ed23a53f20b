"""One sentence per problem of a recipe: place, path in the YAML, what was found, what is known, what to do.

Turns pydantic's errors into those sentences for ``load.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from mmllm import registry
from mmllm.errors import RecipeError
from mmllm.recipe.models import (
    SWITCHES,
    ComponentSpec,
    Eval,
    Llm,
    Recipe,
    Serve,
    Stage,
    Start,
    StepText,
    Stitching,
    TileText,
)
from mmllm.recipe.part_arguments import shown
from mmllm.recipe.stage_sections import Distill
from mmllm.recipe.yaml_lines import Path

GROUPS = ("encoders", "connectors", "data")
"""Sections whose entries are parts."""
REGISTRY = {"encoders": "encoders", "connectors": "connectors", "data": "datasets"}
"""Section -> group of the registry."""
EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
}
LIMITS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
WORDS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


class Problems:
    """Collects the problems of one recipe with the place (file and line, or override) each stands at."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.places: dict[Path, str] = {(): f"{file}:1"}
        self.sentences: list[str] = []

    def locate(self, lines: dict[Path, int]) -> None:
        """Take over the lines of a document's keys."""
        self.places |= {path: f"{self.file}:{line}" for path, line in lines.items()}

    def override(self, path: Path, text: str) -> None:
        """From now on ``path`` and all below it stand in an override, not in the file."""
        self.places = {known: place for known, place in self.places.items() if known[: len(path)] != path}
        self.places[path] = place_of(text)

    def add(self, path: Path, sentence: str, place: str | None = None) -> None:
        """Note one problem; the place is that of the nearest key above that is written down."""
        self.sentences.append(self.placed(path, sentence, place))

    def placed(self, path: Path, sentence: str, place: str | None = None) -> str:
        """``my.yaml:3: llm.path: sentence.``, without noting it as a problem."""
        depth = len(path)
        while path[:depth] not in self.places:
            depth -= 1
        dotted = ".".join(map(str, path))
        end = "" if sentence.endswith(("?", ".")) else "."
        return f"{place or self.places[path[:depth]]}: {dotted + ': ' if dotted else ''}{sentence}{end}"

    def raise_any(self) -> None:
        """Raise one ``RecipeError`` with every sentence noted so far, a line each."""
        if self.sentences:
            raise RecipeError("\n".join(self.sentences))


def place_of(override: str) -> str:
    """Name of an override where a file and line would stand."""
    return f'override "{override}"'


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that does not exist: what is known and the near name."""
    known = list(known)
    near = registry.nearest(name, known)
    hint = f'; did you mean "{near}"?' if near else ""
    return f"unknown {what}; known: {', '.join(known) or 'none'}{hint}"


def of_pydantic(error: ErrorDetails) -> tuple[Path, str]:
    """(path in the YAML, sentence) of one error of the models."""
    # "[key]" is how pydantic (read in 2.14) marks an error of a mapping's key; it is no word of the recipe
    path: Path = tuple("from" if part == "source" else part for part in error["loc"] if part != "[key]")
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return path, _missing(path)
    if kind == "extra_forbidden":
        return path, unknown("key", str(path[-1]), _words(_model(path[:-1])))
    if kind == "value_error":
        return path, str(context["error"])
    if kind == "string_pattern_mismatch":
        name = "letters, digits, _ . and -, the first a letter or digit"
        key = "a name of letters, digits and _ that starts with a letter"
        return path, f"found {shown(value)}, expected {key if '[key]' in error['loc'] else name}"
    if kind == "literal_error":
        # pydantic hands the allowed values over as text only: 'a', 'b' or 'c'
        known = [word.strip(" '") for word in context["expected"].replace(" or ", ",").split(",")]
        return path, f"found {shown(value)}; {unknown('value', str(value), known)}"
    if kind == "too_short":
        return path, f"found nothing in it, expected at least one entry ({_description(path)})"
    if kind == "too_long":
        return path, f"found {shown(value)}, expected {context['max_length']} entries ({_description(path)})"
    if kind == "string_too_short":
        return path, "found empty text"
    if kind in LIMITS:
        limit = LIMITS[kind]
        return path, f"found {shown(value)}, expected {WORDS[limit]} {context[limit]:g}"
    if kind in EXPECTED:
        return path, f"found {shown(value)}, expected {EXPECTED[kind]}{_hint(kind, value)}"
    return path, f"found {shown(value)}: {error['msg'][:1].lower() + error['msg'][1:]}"


def _hint(kind: str, value: Any) -> str:
    """Advice on what to write instead, where the value tells it; else empty."""
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "; quote it to make it text"
    if kind in ("int_type", "float_type") and isinstance(value, str):
        return "; write it without quotes" if value.replace(".", "", 1).isdigit() else ""
    return ""


def _model(path: Path) -> type[BaseModel]:
    """The model whose words stand directly under ``path``."""
    if not path:
        return Recipe
    if path[0] == "connectors" and path[2:] == ("start",):
        return Start
    if path[0] == "connectors" and path[2:] == ("tiles",):
        return TileText
    if path[0] == "connectors" and path[2:] == ("steps",):
        return StepText
    if path[0] == "connectors" and path[2:] == ("stitch",):
        return Stitching
    if path[0] in ("stages", "eval") and path[-1] in SWITCHES:
        return SWITCHES[path[-1]]
    if path[0] == "stages" and path[2:] == ("distill",):
        return Distill
    single: dict[Any, type[BaseModel]] = {"llm": Llm, "eval": Eval, "serve": Serve, "stages": Stage}
    return single.get(path[0], ComponentSpec)


def _words(model: type[BaseModel]) -> list[str]:
    """The YAML words of a model."""
    if model is ComponentSpec:
        return ["type", "from", "when"]
    return list(model.model_fields)


def _description(path: Path) -> str:
    """Description that the models have for the word at ``path``; empty where there is none."""
    field = _model(path[:-1]).model_fields.get(str(path[-1]))
    return (field.description if field else None) or ""


def _missing(path: Path) -> str:
    """The sentence for a word that has to be there."""
    if path[-1] == "type" and path[0] in GROUPS:
        return f"missing; known types: {', '.join(sorted(registry.table(REGISTRY[str(path[0])])))}"
    if isinstance(path[-1], int):
        return "missing; the list is too short"
    described = _description(path)
    return f"missing ({described})" if described else "missing"
