"""Grammars of answers in llguidance's form: a JSON value by its schema, and text with calls of functions in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mmllm.errors import ConstraintError

OBJECT: Mapping[str, Any] = {"type": "object"}
"""Schema of ``json_object``: any object."""

MOST_SCHEMA = 65_536
"""Most characters of a schema, written as JSON."""
MOST_DEPTH = 32
"""Most objects and lists of a schema inside each other: what reads it goes down into them by recursion."""

SPACES = r"[ \n]{1,12}"
"""Blanks between two signs of JSON. A bound: a model may write blanks for ever, which says nothing."""

OPEN, CLOSE = "<tool_call>", "</tool_call>"
"""Around a call, as in the format of Hermes models, which Qwen's were trained on too."""


def json_grammar(schema: Mapping[str, Any], spaces: str = SPACES) -> str:
    """Return the grammar of values of a schema (JSON Schema; what is not supported of it is an error of ``compile``).

    ``spaces``: pattern of what may stand between two signs, where anything does.

    Raises:
        ConstraintError: the schema is larger or deeper than is read.
    """
    check_schema(schema)
    return json.dumps({"grammars": [{"json_schema": _with_options(schema, spaces)}]})


def calls_grammar(functions: Mapping[str, Mapping[str, Any]], *, text: bool, several: bool) -> str:
    """Return the grammar of an answer that calls functions.

    Args:
        functions: name -> schema of its arguments, an object.
        text: whether it may say something before a call, and need not call at all.
        several: whether there may be more calls than one.

    Raises:
        ConstraintError: a schema is larger or deeper than is read.
    """
    rules = []
    for number, (name, schema) in enumerate(functions.items()):
        check_schema(schema)
        head = _text(f'{json.dumps(name)}, "arguments": ')
        rules.append(f"call_{number}: {head} %json {json.dumps(_with_options(schema))}")
    calls = " | ".join(f"call_{number}" for number in range(len(rules)))
    before, behind = _text('\n{"name": '), _text(f"}}\n{CLOSE}")
    rules.append(f"body: {before} ({calls}) {behind}")
    if text:
        rules += [f"lead[lazy]: TEXT {_text(OPEN)}", "tail: TEXT", r"TEXT: /(.|\n)*/"]
        start = "(lead body)* tail" if several else "tail | lead body"
    else:
        rules.append(f"call: {_text(OPEN)} body")
        start = 'call ("\\n" call)*' if several else "call"
    return "\n".join(["%llguidance {}", f"start: {start}", *rules])


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise ConstraintError for a schema that is larger or deeper than is read."""
    depth, level = 0, [schema]
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise ConstraintError(f"the schema is over {MOST_DEPTH} levels deep")
        level = [child for one in level for child in _children(one)]
    if len(json.dumps(schema)) > MOST_SCHEMA:
        raise ConstraintError(f"the schema is over {MOST_SCHEMA} characters long")


def _children(value: Any) -> Sequence[Any]:
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [one for one in values if isinstance(one, Mapping | list)]


def _with_options(schema: Mapping[str, Any], spaces: str = SPACES) -> dict[str, Any]:
    """Return the schema with our options of its compilation in place of any that it brings: a client's could have
    keywords passed over."""
    return {**schema, "x-guidance": {"whitespace_pattern": spaces, "lenient": False}}


def _text(text: str) -> str:
    """Return a string of the grammar's language."""
    return json.dumps(text)
