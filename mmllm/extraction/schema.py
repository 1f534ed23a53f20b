"""The schema of what is extracted: read from a file, held to what bounds every value, and closed to other keys.

A model that repeats itself inside a number or a text would go on until its tokens end, and take the rest of the object
with it. Every text and number of the schema therefore gets a length, where the schema gives it none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmllm.errors import ConstraintError, MmllmError
from mmllm.generation.constraints.grammars import check_schema

MOST_CHARACTERS = 256
"""Of a text whose schema says no ``maxLength``."""
MOST = 10**15
"""Largest absolute value of a number whose schema has no bound; float64 still has every integer below it."""
FRACTION = 1e-6
"""Numbers are multiples of it, where the schema says no ``multipleOf``: six decimals."""

LOWER, UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
FIXED = ("enum", "const")
"""Words of schemas whose values are listed."""
SEVERAL = ("anyOf", "oneOf", "allOf")
TYPES = {"string", "number", "integer", "boolean", "null", "object", "array"}


def read_schema(path: Path) -> dict[str, Any]:
    """The schema of a file.

    Raises:
        MmllmError: the file cannot be read, or is no schema of an object whose values all have a type.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MmllmError(f"--schema {path}: {error.strerror}; give a file of JSON Schema.") from error
    except (ValueError, RecursionError) as error:
        raise MmllmError(f"--schema {path} is no JSON ({error}).") from error
    if not isinstance(found, Mapping) or found.get("type") != "object":
        raise MmllmError(f'--schema {path}: it is the schema of an object, {{"type": "object", "properties": ...}}.')
    try:
        check_schema(found)
        bounded(found)
        return dict(found)
    except ConstraintError as error:
        raise MmllmError(f"--schema {path}: {error}.") from error


def bounded(schema: Mapping[str, Any], where: str = "#") -> dict[str, Any]:
    """A schema whose texts and numbers have a length, and whose objects have no other keys than it names.

    Args:
        schema: JSON Schema, at most as deep as ``check_schema`` allows.
        where: its place, for errors.

    Raises:
        ConstraintError: a part that says neither a type nor what its values are.
    """
    found = dict(schema)
    for word in ("$defs", "definitions", "properties"):
        if word in found:
            found[word] = {name: _part(one, f"{where}/{word}/{name}") for name, one in _object(found, word, where)}
    for word in (*SEVERAL, "prefixItems"):
        if word in found:
            found[word] = [_part(one, f"{where}/{word}/{number}") for number, one in enumerate(found[word])]
    for word in ("items", "additionalProperties"):
        if isinstance(found.get(word), Mapping):
            found[word] = bounded(found[word], f"{where}/{word}")
    if "$ref" in found or any(word in found for word in (*SEVERAL, *FIXED)):
        return found
    named = found.get("type")
    types = {named} if isinstance(named, str) else set(named) if isinstance(named, list) else set()
    if not types or not types <= TYPES:
        raise ConstraintError(f"{where} has no type that is known; write one of {', '.join(sorted(TYPES))}")
    if "object" in types:
        if not found.get("properties") and not isinstance(found.get("additionalProperties"), Mapping):
            raise ConstraintError(f"{where} is an object without properties; name them")
        if not isinstance(found.get("additionalProperties"), Mapping):
            found["additionalProperties"] = False
    if "array" in types and not ("items" in found or "prefixItems" in found):
        raise ConstraintError(f"{where} is an array without items; say what they are")
    if "string" in types:
        found.setdefault("maxLength", MOST_CHARACTERS)
    if types & {"number", "integer"}:
        _bound_number(found, types)
    return found


def in_order(value: Any, schema: Mapping[str, Any]) -> Any:
    """A value with the keys of its objects in the order of the schema, in which the grammar wants them."""
    if isinstance(value, Mapping):
        known = schema.get("properties", {})
        names = [*(name for name in known if name in value), *(name for name in value if name not in known)]
        return {name: in_order(value[name], known.get(name, {})) for name in names}
    items = schema.get("items")
    if isinstance(value, list) and isinstance(items, Mapping):
        return [in_order(one, items) for one in value]
    return value


def _bound_number(found: dict[str, Any], types: set[str]) -> None:
    if not any(word in found for word in LOWER):
        found["minimum"] = -MOST
    if not any(word in found for word in UPPER):
        found["maximum"] = MOST
    if "number" in types:
        found.setdefault("multipleOf", FRACTION)


def _object(found: Mapping[str, Any], word: str, where: str) -> Sequence[tuple[str, Any]]:
    if not isinstance(found[word], Mapping):
        raise ConstraintError(f"{where}/{word} is no object of schemas")
    return list(found[word].items())


def _part(schema: Any, where: str) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        raise ConstraintError(f"{where} is {json.dumps(schema)[:80]}, which says nothing of its values; write a type")
    return bounded(schema, where)
