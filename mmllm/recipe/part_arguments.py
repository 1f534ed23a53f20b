"""Flat arguments of a part against its class's signature, unknown, missing, of a wrong type.

Used by the recipe's checks and by its JSON schema; sits between ``registry`` (which reads signatures) and ``recipe``.
"""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Optional, Union

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from mmllm import registry
from mmllm.registry import Parameter

GIVEN = {"connectors": ("dim", "llm_dim", "dims")}
"""Arguments that the build fills in; a recipe does not write them."""
NAMES: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "Any": Any,
    "Literal": Literal,
    "Optional": Optional,
    "Union": Union,
    "Sequence": Sequence,
    "Mapping": Mapping,
    "Path": Path,
    "EncoderPart": Mapping[str, Any],
}
EXPECTED = {
    "Sequence[int | Literal['final']]": 'a list of numbers of layers and the word "final"',
    "Sequence[int] | Literal['quarters'] | None": '[least, most] or the word "quarters"',
}
"""Annotation -> how sentences say it, where its own text would not tell a reader enough."""
NODES = (ast.Expression, ast.Name, ast.Load, ast.Subscript, ast.BinOp, ast.BitOr, ast.Constant, ast.Tuple, ast.List)


def accepted(group: str, type: str) -> dict[str, Parameter]:
    """Arguments that a recipe may write for this part, in order; ``**`` stays in when the class takes anything."""
    given = GIVEN.get(group, ())
    return {name: found for name, found in registry.parameters(group, type).items() if name not in given}


def default_of(parameter: Parameter) -> Any:
    """The default as a value, where its text is a plain one; None where there is none, or a name or call."""
    try:
        return ast.literal_eval(parameter.default)
    except (ValueError, SyntaxError):
        return None


def inner_encoders(group: str, type: str) -> list[str]:
    """Arguments that are encoders themselves: ``image`` of ``frames``."""
    return [name for name, parameter in accepted(group, type).items() if parameter.annotation == "EncoderPart"]


KINDS = ("Projector", "DeepFusion", "LLMAdapter", "EncoderAdapter")
"""Base classes of ``mmllm.connectors`` that say what a connector is; a class may derive from two."""


def kinds(type: str) -> frozenset[str]:
    """Those of :data:`KINDS` that a connector derives from; a DeepFusion is no further LLMAdapter.

    Raises:
        UnknownName: it derives from none, so nobody could tell where it works.
    """
    found = registry.bases("connectors", type)
    chosen = frozenset(kind for kind in KINDS if kind in found)
    if not chosen:
        raise registry.UnknownName(
            f'"{type}" is no connector: its class must derive from {", ".join(KINDS[:-1])} or {KINDS[-1]} of '
            "mmllm.connectors.base."
        )
    return chosen - {"LLMAdapter"} if "DeepFusion" in chosen else chosen


def takes_features(type: str) -> bool | None:
    """Whether a connector gets encoders' features: always, never, or (None) works with and without."""
    if not kinds(type) & {"Projector", "DeepFusion"}:
        return False
    # an optional `dim` is how a class says that it works with and without features
    parameters = registry.parameters("connectors", type)
    return True if "dim" not in parameters or parameters["dim"].required else None


def takes_several(type: str) -> bool:
    """Whether a connector takes the features of several encoders at once: it derives from ``SeveralEncoders``."""
    return "SeveralEncoders" in registry.bases("connectors", type)


def works_inside(type: str) -> bool:
    """Whether a connector works inside the LLM."""
    return bool(kinds(type) & {"LLMAdapter", "DeepFusion"})


def adapts_encoders(type: str) -> bool:
    """Whether a connector works inside encoders."""
    return "EncoderAdapter" in kinds(type)


def problems(group: str, type: str, args: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    """(argument, sentence) for each argument that does not fit; None as argument where one is missing."""
    known = accepted(group, type)
    names = [name for name, parameter in known.items() if not parameter.variadic]
    takes_anything = len(names) < len(known)
    found: list[tuple[str | None, str]] = []
    for name, value in args.items():
        if name in names:
            wrong = _wrong_type(known[name], value)
            if wrong:
                found.append((name, wrong))
        elif not takes_anything:
            near = registry.nearest(name, names)
            hint = f'; did you mean "{near}"?' if near else ""
            found.append((name, f"unknown argument of {type}; known: {', '.join(names) or 'none'}{hint}"))
    missing = [name for name in names if known[name].required and name not in args]
    for name in missing:
        expected = f" ({known[name].annotation})" if known[name].annotation else ""
        found.append((None, f'{type} needs the argument "{name}"{expected}; known: {", ".join(names)}'))
    return found


def schema(group: str, type: str) -> dict[str, Any]:
    """JSON schema fragment of a part's arguments: ``properties``, ``required``, ``additionalProperties``."""
    known = accepted(group, type)
    named = {name: parameter for name, parameter in known.items() if not parameter.variadic}
    properties = {}
    for name, parameter in named.items():
        properties[name] = copy.deepcopy(_annotation_schema(parameter.annotation))
        if parameter.default:
            properties[name]["description"] = f"default: {parameter.default}"
    required = [name for name, parameter in named.items() if parameter.required]
    return {"properties": properties, "required": required, "additionalProperties": len(named) < len(known)}


@lru_cache(maxsize=256)
def _annotation_schema(annotation: str) -> dict[str, Any]:
    """JSON schema of the values that an annotation's text allows."""
    return TypeAdapter(_type(annotation)).json_schema()


def shown(value: Any) -> str:
    """A found value and its kind, as sentences quote it: ``"64" (text)``."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"{str(value).lower()} (true or false)"
    if isinstance(value, dict):
        return "a mapping"
    text = json.dumps(value, ensure_ascii=False, default=str)
    kind = {str: "text", list: "a list", int: "a whole number", float: "a number"}[type(value)]
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({kind})"


def _wrong_type(parameter: Parameter, value: Any) -> str | None:
    """The sentence for a value that does not fit the annotation; None when it fits or the annotation says nothing."""
    try:
        adapter = TypeAdapter(parameter.hint or _type(parameter.annotation))
    except PydanticSchemaGenerationError:  # a class that pydantic knows nothing about
        adapter = TypeAdapter(_type(parameter.annotation))
    try:
        # through JSON, as the recipe's own words: strict, and yet a list may be a tuple
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return f"found {shown(value)}, expected {EXPECTED.get(parameter.annotation, parameter.annotation)}"
    return None


def _type(annotation: str) -> Any:
    """The type that an annotation's text means, if it is made of plain names; ``Any`` otherwise."""
    if not annotation:
        return Any
    tree = ast.parse(annotation, mode="eval")
    plain = all(isinstance(node, NODES) for node in ast.walk(tree))
    if not plain or any(isinstance(node, ast.Name) and node.id not in NAMES for node in ast.walk(tree)):
        return Any
    # safe: only plain syntax and the names above got this far, and there are no builtins
    return eval(compile(tree, "<annotation>", "eval"), {"__builtins__": {}}, dict(NAMES))
