"""Tables of a recipe's words from its models: type, limits, default, meaning."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from mmllm.recipe.models import ComponentSpec, Eval, Llm, Recipe, Serve, Stage
from mmllm.recipe.stage_sections import Cache, Distill

PAGES: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("Top level", Recipe, "Sections stand in the order data flows."),
    ("llm", Llm, "The frozen causal LM."),
    (
        "encoders, connectors, data",
        ComponentSpec,
        "An entry is a key and a part. The key of a connector with `from` is its placeholder: `image` fills `<image>`.",
    ),
    ("stages", Stage, "Each entry is a key and a stage. What `train` names learns; all else is frozen."),
    ("stages: cache, eval: cache", Cache, "`cache: true` is all of its defaults."),
    ("stages: distill", Distill, "`distill: text` is all of its defaults."),
    ("eval", Eval, "What `mmllm eval` measures."),
    ("serve", Serve, "Address and limits of `mmllm serve`."),
)
"""Heading, model, what the section is."""
NAMES = {"source": "from"}
"""Field of a model -> word of the YAML, where they differ."""
TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "array": "list",
    "object": "mapping",
}
LIMITS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
MEANINGS: dict[tuple[type[BaseModel], str], str] = {
    (Recipe, "seed"): "of the connectors' first weights, the order of the data and dropout",
    (Recipe, "llm"): "section below",
    (Recipe, "encoders"): "frozen parts that read media, by key",
    (Recipe, "data"): "datasets by key; stages name the keys",
    (Recipe, "eval"): "section below",
    (Recipe, "serve"): "section below",
    (Stage, "schedule"): "of the learning rate after the warm-up",
    (Stage, "betas"): "of AdamW",
    (Stage, "gradient_checkpointing"): "compute the LLM's blocks again in the backward pass: less memory, more time",
    (Eval, "max_new_tokens"): "of an answer",
    (Eval, "batch"): "questions answered at once",
    (Serve, "host"): "address to listen on",
    (Serve, "port"): "0: any that is free",
    (Serve, "max_new_tokens"): "of an answer, where the request names no number",
}
"""Meaning of the words whose models say none."""


def sections() -> str:
    """A table per section."""
    return "\n\n".join(f"### {head}\n\n{text}\n\n{_table(model)}" for head, model, text in PAGES)


def _table(model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    lines = ["| word | type | limits | default | meaning |", "|---|---|---|---|---|"]
    for field, info in model.model_fields.items():
        found = _plain(schema["properties"][field])
        meaning = info.description or MEANINGS[model, field]
        word = "any other word" if (model, field) == (ComponentSpec, "args") else f"`{NAMES.get(field, field)}`"
        cells = [word, _type(found), _limits(found), _default(model, field, found), no_html(meaning)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def no_html(text: str) -> str:
    """Text whose ``<name>`` is shown as it is, outside of backticks too."""
    parts = re.split(r"(`+[^`]+`+)", text)
    return "".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a value that may be left out (null) as that of the value."""
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    rest = {word: value for word, value in schema.items() if word != "anyOf"}
    if len(options) == 1:
        return {**rest, **options[0]}
    return {**rest, "anyOf": options} if options else rest


def _type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "$ref" in schema:
        return "section"
    kind = TYPES.get(schema.get("type", ""), "anything")
    inner = schema.get("items") or schema.get("additionalProperties") or {}
    if schema.get("type") == "array":
        if "prefixItems" not in schema:
            return f"list of {_type(inner)}"
        first = schema["prefixItems"][0]
        return f"list of {len(schema['prefixItems'])} {'texts' if first.get('type') == 'string' else 'numbers'}"
    if schema.get("type") == "object" and isinstance(inner, dict) and inner.get("type") == "number":
        return "mapping to numbers"
    return kind


def _limits(schema: Mapping[str, Any]) -> str:
    found = [f"{sign} {schema[word]}" for word, sign in LIMITS.items() if word in schema and schema[word] < 2**62]
    inner = schema.get("additionalProperties")
    if isinstance(inner, dict):
        found += [f"each {one}" for one in _limits(inner).split(", ") if one]
    items = schema.get("prefixItems")
    if items and _limits(items[0]):
        found += [f"each {_limits(items[0])}"]
    if schema.get("minLength") or schema.get("minProperties"):
        found.insert(0, "not empty")
    return ", ".join(found)


def _default(model: type[BaseModel], field: str, schema: Mapping[str, Any]) -> str:
    if (model, field) == (Recipe, "name"):
        return "the file's name"
    if model.model_fields[field].is_required():
        return "needed"
    if "$ref" in schema and model.model_fields[field].default is not None:
        return "its defaults"
    value = schema.get("default", {})
    return "none" if value is None else f"`{json.dumps(value)}`"
