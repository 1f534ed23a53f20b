"""The page of one part that `mmllm ls PART` prints: what it is, its arguments, its paper and a line for a recipe.

Read from the class's source text; a part of another package is imported.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mmllm import registry
from mmllm.recipe import part_arguments
from mmllm.recipe.files import folder, shipped
from mmllm.registry import Parameter

WIDTH = 100
"""Columns of a page."""
KINDS = {
    "Projector": "projector, encoder features to tokens of the LLM",
    "DeepFusion": "deep fusion, inside the LLM with encoder features",
    "LLMAdapter": "LLM adapter, inside the LLM",
    "EncoderAdapter": "encoder adapter, inside an encoder",
}
BASES = {"Encoder": "encoders", "Connector": "connectors", "Dataset": "datasets", "Benchmark": "benchmarks"}
"""Base class -> group of its parts, for a "module:Class"."""
SECTIONS = {"encoders": "encoders", "connectors": "connectors", "datasets": "data", "benchmarks": "eval"}
"""Group -> section of a recipe."""
_ARXIV = re.compile(r"(?:arXiv[: ]|; )(?:[A-Za-z-]+, )?(\d{4}\.\d{4,5})")
_ENTRY = re.compile(r"^ +(\w+: \{type: (\S+?)[,}].*\})$")
_BLOCK = re.compile(r"\n\s*\n|\n(?=\s*- )")
_MARKS = re.compile(r":\w+:(?=`)|`+~?")
_SIGNATURE = 46
"""Widest column of arguments; a longer one stands on a line of its own."""


def groups_of(name: str) -> list[str]:
    """Groups that have a part of this name; of a "module:Class" the one that its base class tells.

    Raises:
        UnknownName: a "module:Class" that is not there, or of no kind.
    """
    if ":" not in name:
        return [group for group in registry.groups() if name in registry.table(group)]
    bases = registry.bases("encoders", name)  # the same whatever the group: the class is named in full
    found = [group for base, group in BASES.items() if base in bases]
    if not found:
        raise registry.UnknownName(f'"{name}" is no part: its class derives from none of {", ".join(BASES)}.')
    return found


def page(group: str, name: str) -> str:
    """What there is to say of a part, as text for a terminal."""
    about, *bases = registry.docstrings(group, name) or [""]
    meanings = registry.meanings(group, name)
    lines = [f"{name}: {_kind(group, name)}", ""]
    for paragraph in _paragraphs(about):
        lines += [*textwrap.wrap(paragraph, WIDTH), ""]
    lines += ["arguments:", *_arguments(group, name, meanings, [about, *bases])]
    papers = list(dict.fromkeys(_ARXIV.findall("\n".join([about, *meanings.values()]))))
    if papers:
        lines += ["", f"paper:  {', '.join(f'arXiv {number}' for number in papers)}"]
    lines += ["", f"class:  {registry.locate(group, name)}", f"recipe: {_line(group, name)}"]
    return "\n".join(lines)


def _kind(group: str, name: str) -> str:
    """``connector (projector, encoder features to tokens of the LLM)``."""
    if group != "connectors":
        return group.removesuffix("s")
    kinds = part_arguments.kinds(name)
    return f"connector ({'; '.join(text for kind, text in KINDS.items() if kind in kinds)})"


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs and list entries of a docstring, each on one line, without its ``Args:``."""
    for block in _BLOCK.split(text):
        if re.match(r"\s*(Args|Raises|Returns):", block):
            continue
        yield _plain(" ".join(block.split()))


def _arguments(group: str, name: str, meanings: Mapping[str, str], docstrings: Sequence[str]) -> list[str]:
    """A line or more for each argument: name, type, default, meaning."""
    known = part_arguments.accepted(group, name)
    if not known:
        return ["  none"]
    left = {one: _signature(group, name, parameter) for one, parameter in known.items()}
    width = min(_SIGNATURE, max(map(len, left.values())))
    lines = []
    for one in known:
        said = _plain(meanings.get(one) or _sentence_about(one, docstrings))
        first, *more = textwrap.wrap(said, WIDTH - width - 4) or [""]
        if len(left[one]) > width and said:
            first, more = "", [first, *more]
        lines.append(f"  {left[one]:{width}}  {first}".rstrip())
        lines += [f"  {'':{width}}  {line}" for line in more]
    return lines


def _signature(group: str, name: str, parameter: Parameter) -> str:
    """``rank: int = 16``; without a default the argument is needed."""
    if parameter.variadic:
        return f"**{parameter.name}: any further argument"
    kind = f": {parameter.annotation}" if parameter.annotation else ""
    return f"{parameter.name}{kind}" + ("" if parameter.required else f" = {_default(group, name, parameter)}")


def _sentence_about(argument: str, docstrings: Iterable[str]) -> str:
    """The first sentence of the docstrings that has an argument's name in code marks; empty where none has."""
    blocks = [" ".join(block.split()).removeprefix("- ") for text in docstrings for block in _BLOCK.split(text)]
    sentences = [one for block in blocks for one in re.split(r"(?<=[.;:])\s+(?=[A-Z`])", block)]
    marked = re.compile(rf"``{argument}(: [^`]*)?``|(?<!\w)`{argument}`")
    return next((one for one in sentences if marked.search(one)), "")


def _plain(text: str) -> str:
    """Text without the marks of reStructuredText."""
    return _MARKS.sub("", text)


def _default(group: str, name: str, parameter: Parameter) -> str:
    """The default as a recipe would write it; a constant's value where it is a name."""
    value = part_arguments.default_of(parameter)
    if value is None and parameter.default.isidentifier() and parameter.default != "None":
        value = registry.constant(group, name, parameter.default)
    return parameter.default if value is None else _yaml(value)


def _yaml(value: object) -> str:
    """A plain value in YAML's flow style."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, str):
        return repr(value) if not value or "\n" in value or value != value.strip() else value
    return "null" if value is None else str(value)


def _line(group: str, name: str) -> str:
    """A line to copy, one of a shipped recipe's where there is one."""
    section = SECTIONS[group]
    needed = {
        one: f'"<{parameter.annotation}>"'
        for one, parameter in part_arguments.accepted(group, name).items()
        if parameter.required
    }
    quoted = f'"{name}"' if ":" in name else name
    if group == "benchmarks":
        inner = ", ".join(f"{one}: {value}" for one, value in needed.items())
        return f"eval: {{benchmarks: {{{quoted}: {{{inner}}}}}}}" if inner else f"eval: {{benchmarks: [{quoted}]}}"
    shown = _shipped_lines(section).get(name)
    if shown is None:
        features = {"from": "image"} if group == "connectors" and part_arguments.takes_features(name) else {}
        adapts = group == "connectors" and part_arguments.adapts_encoders(name) and not features
        words = {"type": quoted, **features, **({"adapts": "[image]"} if adapts else {}), **needed}
        inner = ", ".join(f"{one}: {value}" for one, value in words.items())
        shown = f"{'mine' if group == 'datasets' else 'image'}: {{{inner}}}"
    return f"{section}: {{{shown}}}"


def _shipped_lines(section: str) -> Mapping[str, str]:
    """Type -> its ``key: {type: ...}`` in the first shipped recipe, on one line."""
    found: dict[str, str] = {}
    # those of published models say what such a model needs, not what one writes first
    for name in (one for one in shipped() if not one.startswith("published/")):
        inside = False
        for line in (folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(" "):
                inside = line.startswith(f"{section}:")
            entry = _ENTRY.match(line) if inside else None
            if entry:
                found.setdefault(entry[2].strip('"'), entry[1])
    return found
