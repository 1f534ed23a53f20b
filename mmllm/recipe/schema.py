"""JSON schema of the recipe for editors: the models' own schema, with one alternative per known part.

Printed by `mmllm show --schema`; parts' arguments come from their classes' source text, nothing is imported.
"""

from __future__ import annotations

from typing import Any

from mmllm import registry
from mmllm.recipe import part_arguments
from mmllm.recipe.messages import REGISTRY
from mmllm.recipe.models import SHOTS, SWITCHES, Recipe

OWN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
"""The "module:Class" form of a type, whose arguments the schema cannot know."""
SYSTEM = {"type": "string", "description": "system message of conversations that have none; empty: without any"}


def json_schema() -> dict[str, Any]:
    """Schema (draft 2020-12) that accepts what ``load_recipe`` accepts, but for checks across sections."""
    schema = Recipe.model_json_schema()
    schema["required"].remove("name")  # the file's name where there is none
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    for section, group in REGISTRY.items():
        entries = schema["properties"][section]
        _replace_reference(entries, {"oneOf": [*_known(section, group), _own(section)]})
    benchmarks = schema["$defs"]["Eval"]["properties"]["benchmarks"]
    names = sorted(registry.table("benchmarks"))
    arguments = {name: _asked(name) for name in names}
    named = {name: _nullable(words) for name, words in arguments.items()}
    listed = {"type": "array", "items": {"anyOf": [{"enum": names}, {"pattern": OWN}]}, "uniqueItems": True}
    # under a name of its own an entry says its type, and has that one's arguments
    typed = [
        {
            **words,
            "properties": {"type": {"const": name}, **words["properties"]},
            "required": ["type", *words.get("required", [])],
        }
        for name, words in arguments.items()
    ]
    other = {"oneOf": [*typed, {"type": "object", "properties": {"type": {"pattern": OWN}}, "required": ["type"]}]}
    mapped = {"type": "object", "properties": named, "patternProperties": {OWN: {}}, "additionalProperties": other}
    schema["$defs"]["Eval"]["properties"]["benchmarks"] = {
        "description": benchmarks["description"],
        "anyOf": [listed, mapped],
    }
    del schema["$defs"]["ComponentSpec"]
    exactly_one = [{"required": ["epochs"]}, {"required": ["steps"]}]
    schema["$defs"]["Stage"]["oneOf"] = exactly_one
    for name in ("Stage", "Eval"):
        words = schema["$defs"][name]["properties"]
        for word in SWITCHES.keys() & words.keys():
            words[word]["anyOf"] = [{"type": "boolean"}, *words[word]["anyOf"]]
    taught = schema["$defs"]["Stage"]["properties"]["distill"]
    taught["anyOf"] = [{"const": "text"}, *taught["anyOf"]]  # what the teacher reads alone
    begins = schema["properties"]["start"]
    begins["anyOf"] = [{"type": "string"}, *begins["anyOf"]]  # a path alone
    taken = schema["$defs"]["Start"]["properties"]["data"]
    taken["anyOf"] = [{"type": "string"}, *taken["anyOf"]]  # one entry alone
    return schema


def _replace_reference(entries: dict[str, Any], alternatives: dict[str, Any]) -> None:
    """Put the alternatives where pydantic's schema refers to ``ComponentSpec``."""
    if "patternProperties" in entries:  # how pydantic writes a dict whose keys have a pattern
        entries["patternProperties"] = dict.fromkeys(entries["patternProperties"], alternatives)
        entries["additionalProperties"] = False
    else:
        entries["additionalProperties"] = alternatives


def _words(section: str) -> dict[str, Any]:
    """A part's own words beside ``type``."""
    if section == "data":
        group = {"type": "string", "description": "whose it is; what learned from it is this group's alone"}
        return {"system": SYSTEM, "group": group}
    if section != "connectors":
        return {}
    return {
        "from": {
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
            "description": "the encoder whose features enter, or a list of several",
        },
        "when": {"type": "array", "items": {"type": "string"}},
        "adapts": {
            "type": "array",
            "items": {"type": "string"},
            "description": "the encoders in whose blocks it works",
        },
        "times": {"type": "string", "description": "text before each step in time; {s:.1f}: seconds, {n}: number"},
        "token": {"type": "string", "description": "the LLM's own token for an item, written by its chat template"},
        "around": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 2,
            "maxItems": 2,
            "description": "text of the LLM before and behind every item, control tokens included",
        },
        "tiles": {"$ref": "#/$defs/TileText"},
        "steps": {"$ref": "#/$defs/StepText"},
        "attends": {
            "enum": ["causal", "bidirectional"],
            "description": "bidirectional: the tokens of one item see each other in both directions",
        },
        "stitch": {"$ref": "#/$defs/Stitching"},
        "rows": {
            "type": "string",
            "description": "text of the LLM between the rows of a picture's tokens, control tokens included",
        },
        "shares": {"type": "string", "description": "a connector in front of it whose weights it uses"},
        "start": {
            "anyOf": [{"type": "string"}, {"$ref": "#/$defs/Start"}],
            "description": "weights to begin with: a published VLM, or a safetensors file with prefix and rename; or "
            "computed from data: words, scaled or {by, data, items}",
        },
    }


def _known(section: str, group: str) -> list[dict[str, Any]]:
    """One object schema per type in the registry."""
    found = []
    for name in registry.table(group):
        arguments = part_arguments.schema(group, name)
        required = ["type", *arguments["required"]]
        if section == "connectors" and part_arguments.takes_features(name):
            required.append("from")
        found.append(
            {
                "type": "object",
                "description": registry.summary(group, name),
                "properties": {"type": {"const": name}, **_words(section), **arguments["properties"]},
                "required": required,
                "additionalProperties": arguments["additionalProperties"],
            }
        )
    return found


def _own(section: str) -> dict[str, Any]:
    """A part from outside the registry."""
    return {
        "type": "object",
        "properties": {"type": {"type": "string", "pattern": OWN}, **_words(section)},
        "required": ["type"],
    }


def _asked(name: str) -> dict[str, Any]:
    """A benchmark's arguments, and the words that every entry may have."""
    arguments = part_arguments.schema("benchmarks", name)
    shots = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "object", "required": ["n"]}]}
    return {**arguments, "properties": {"system": SYSTEM, SHOTS: shots, **arguments["properties"]}}


def _nullable(arguments: dict[str, Any]) -> dict[str, Any]:
    """A benchmark's arguments; `name:` with nothing after it means none."""
    needed = bool(arguments["required"])
    return {"type": "object" if needed else ["object", "null"], **arguments}
