"""YAML text -> plain data plus the line of every key; whatever a recipe must not hold is a problem with its line.

First step of reading a recipe (used by ``load.py`` only). Nothing is constructed but text, numbers, booleans, lists
and mappings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

MAX_NODES = 10_000
"""Nodes after aliases are expanded: far above any recipe, far below an alias bomb."""
MAX_DEPTH = 20
"""Levels of nesting: recipes have six, an encoder inside an encoder two more; the reader calls itself once a level."""
EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
"""Numbers with an exponent; YAML 1.1 reads as text those without a dot or without a sign before the exponent."""
KINDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "null": "nothing"}

Path = tuple[str | int, ...]


@dataclass
class Document:
    """Plain data of one YAML text, where its keys stand, and what is wrong with it."""

    data: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    """Path -> line (from 1) of its key, or of the list item."""
    problems: list[tuple[Path, int, str]] = field(default_factory=list)
    """(path, line, what is wrong)."""


class _TooLarge(Exception):
    """The aliases of a document expand beyond the limits."""


def read(text: str) -> Document:
    """Read one YAML document; syntax errors and forbidden content are listed in ``problems``."""
    document = Document()
    try:
        # nodes only, with their lines; what is made of them is decided below
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        document.problems.append(((), line, f"this is not YAML: {_syntax(error)}"))
        return document
    except yaml.YAMLError as error:
        document.problems.append(((), 1, f"this is not YAML: {' '.join(str(error).split())}"))
        return document
    if node is None:
        return document
    try:
        document.data = _Reader(document).value(node, ())
    except _TooLarge:
        limit = f"more than {MAX_NODES} values or {MAX_DEPTH} levels once its aliases are expanded"
        document.problems.append(((), 1, f"{limit}; write the values out"))
    return document


def _syntax(error: yaml.MarkedYAMLError) -> str:
    """PyYAML's complaint in one clause; tabs get their own, since its message does not say what to do."""
    problem = error.problem or "it cannot be parsed"
    if "'\\t'" in problem:
        return "a tab is used as indentation; use spaces"
    return f"{error.context}, {problem}" if error.context else problem


class _Reader:
    """Walks the nodes of one document; counts them, so that aliases cannot blow up."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.constructor = SafeConstructor()
        self.count = 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        """Plain value of a node; a problem is noted and None stands for the value."""
        self.count += 1
        if self.count > MAX_NODES or len(path) > MAX_DEPTH:
            raise _TooLarge
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            for index, item in enumerate(node.value):
                self.document.lines[(*path, index)] = item.start_mark.line + 1
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if not isinstance(node, yaml.ScalarNode) or kind not in KINDS:
            known = "text, numbers, true, false, null, lists and mappings"
            found = f'a {kind} ("{node.value}"); quote it to make it text' if kind == "timestamp" else f"tag {node.tag}"
            return self.problem(node, path, f"found {found}; a recipe holds only {known}")
        return self.scalar(node, path, kind)

    def scalar(self, node: yaml.ScalarNode, path: Path, kind: str) -> Any:
        """Text, number, boolean or None."""
        if kind == "str" and node.style is None and EXPONENT.fullmatch(node.value):
            return self.problem(
                node,
                path,
                f"found {node.value}, which YAML 1.1 reads as text, not as a number; "
                f'write {dotted(node.value)} (or "{node.value}" if you mean text)',
            )
        try:
            return self.constructor.construct_object(node)
        except (ValueError, LookupError, yaml.YAMLError):  # an explicit tag on what it does not fit
            return self.problem(node, path, f'found "{node.value}", which is not {KINDS[kind]}')

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        """Keys are text and occur once; there is no inheritance by ``<<``."""
        found: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            # refused, as what it brings in would have no line of its own that an error could name
            if key_node.tag == "tag:yaml.org,2002:merge":
                self.problem(key_node, path, "found a merge key (<<); a recipe is complete, write the keys out")
                continue
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                self.problem(key_node, path, f"found the key {shown}, which is not text; quote it")
                continue
            key = key_node.value
            if key in found:
                self.problem(key_node, (*path, key), f"the key stands twice (first in line {first[key]}); keep one")
                continue
            first[key] = self.document.lines[(*path, key)] = line
            found[key] = self.value(value_node, (*path, key))
        return found

    def problem(self, node: yaml.Node, path: Path, sentence: str) -> None:
        """Note what is wrong at a node."""
        self.document.problems.append((path, node.start_mark.line + 1, sentence))


def dotted(number: str) -> str:
    """The YAML 1.1 spelling of a number with an exponent: ``1e-3`` -> ``1.0e-3``, ``2.e5`` -> ``2.0e+5``."""
    mantissa, _, exponent = number.lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    sign = "" if exponent[0] in "+-" else "+"
    return f"{whole or '0'}.{fraction or '0'}e{sign}{exponent}"
