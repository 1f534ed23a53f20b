"""Every part of a group of the registry with its arguments, as a recipe writes them."""

from __future__ import annotations

import inspect

from docs.write.sections import no_html
from mmllm import registry
from mmllm.recipe import part_arguments
from mmllm.registry import Parameter


def arguments(group: str) -> str:
    """A line per part: what it is, then its arguments with type and default."""
    return "\n".join(_line(group, name) for name in registry.table(group))


def _line(group: str, name: str) -> str:
    summary = registry.summary(group, name)
    end = "" if summary.endswith((".", ":", ",")) else "."
    return f"- **`{name}`**: {no_html(summary)}{end} {_arguments(group, name)}"


def _arguments(group: str, name: str) -> str:
    found = []
    for one in part_arguments.accepted(group, name).values():
        default = f" = {_default(group, name, one)}" if one.default else ""
        found.append(f"`**{one.name}`" if one.variadic else f"`{one.name}: {one.annotation or 'Any'}{default}`")
    return f"Arguments: {', '.join(found)}." if found else "No arguments."


def _default(group: str, name: str, one: Parameter) -> str:
    """The default as its source has it, or the value of a constant that stands there."""
    if not one.default.isupper():
        return one.default
    parameters = inspect.signature(registry.load(group, name)).parameters
    return repr(parameters[one.name].default)
