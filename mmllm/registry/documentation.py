"""What the source text of a part says beyond its signature: docstrings, meanings of arguments, constants, imports.

Behind ``mmllm ls PART`` and ``mmllm check``; built-in parts are read without importing them, others are imported.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from mmllm.registry.signatures import definition_of, is_own, lineage, load, tree_of
from mmllm.registry.tables import locate

_ENTRY = re.compile(r"^(\*{0,2}\w+)(?: \([^)]*\))?: (.*)$")
_FOREIGN = ("builtins", "abc", "typing", "torch")
"""Packages whose classes say nothing of a part."""
_HEAD = re.compile(r"^(Args|Arguments|Raises|Returns|Yields|Attributes):$")


def docstrings(group: str, type: str) -> list[str]:
    """Docstrings of the class and of those of its bases that are parts as well, nearest first; none that is empty."""
    where = locate(group, type)
    if is_own(where):
        texts = [ast.get_docstring(definition) for _, definition in lineage(*definition_of(where))]
    else:
        kinds = [kind for kind in load(group, type).__mro__ if kind.__module__.partition(".")[0] not in _FOREIGN]
        texts = [inspect.cleandoc(vars(kind).get("__doc__") or "") for kind in kinds]
    return [text for text in texts if text]


def _inits(definition: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    return (one for one in definition.body if isinstance(one, ast.FunctionDef) and one.name == "__init__")


def meanings(group: str, type: str) -> dict[str, str]:
    """Argument -> what its ``Args:`` say, one text each; bases' where a class hands arguments on."""
    where = locate(group, type)
    if not is_own(where):
        kinds = [kind for kind in load(group, type).__mro__ if kind is not object]
        texts = [inspect.getdoc(vars(kind).get("__init__")) or "" for kind in kinds]
        texts += docstrings(group, type)
    else:
        chain = [definition for _, definition in lineage(*definition_of(where))]
        texts = [ast.get_docstring(one) or "" for definition in chain for one in _inits(definition)]
        texts += docstrings(group, type)
    found: dict[str, str] = {}
    for text in texts:
        found = {**described(text), **found}
    return found


def described(docstring: str) -> dict[str, str]:
    """Argument -> its text in the ``Args:`` of a docstring in Google's form."""
    found: dict[str, str] = {}
    inside, name = False, ""
    for line in docstring.splitlines():
        if head := _HEAD.match(line):
            inside, name = head[1] in ("Args", "Arguments"), ""
            continue
        text = line.strip()
        if not inside or not text:
            continue
        depth = len(line) - len(line.lstrip())
        entry = _ENTRY.match(text)
        if depth <= 4 and entry:
            name = entry[1].lstrip("*")
            found[name] = entry[2]
        elif name and depth > 4:
            found[name] += f" {text}"
        elif depth == 0:
            inside = False
    return found


def constant(group: str, type: str, name: str) -> Any:
    """Value of a class's own constant or of a name that its module knows, where it is plain; None where it is not."""
    where = locate(group, type)
    if not is_own(where):
        return getattr(load(group, type), name, None)
    for module, definition in lineage(*definition_of(where)):
        found = _assigned(definition.body, name)
        if found is None:
            found = _of_module(module, name)
        if found is not None:
            return found
    return None


def _of_module(module: str, name: str) -> Any:
    """A name that a module assigns, or imports from another of this package."""
    tree = tree_of(module)
    body = tree.body if tree else []
    found = _assigned(body, name)
    if found is not None:
        return found
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module and is_own(node.module):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _of_module(node.module, alias.name)
    return None


def _assigned(body: Iterable[ast.stmt], name: str) -> Any:
    for node in body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        targets, value = [node.target] if isinstance(node, ast.AnnAssign) else node.targets, node.value
        if value is not None and any(isinstance(one, ast.Name) and one.id == name for one in targets):
            return _plain(value)
    return None


def _plain(value: ast.expr) -> Any:
    """A literal, or arithmetic of numbers (``1 << 20``); None for anything else."""
    arithmetic = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop)
    if all(isinstance(node, arithmetic) for node in ast.walk(value)):
        # safe: constants and operators alone got this far
        return eval(compile(ast.Expression(value), "<constant>", "eval"), {"__builtins__": {}})
    try:
        return ast.literal_eval(value)
    except ValueError:
        return None


@lru_cache(maxsize=256)
def imports_any(module: str, names: tuple[str, ...]) -> bool:
    """Whether importing a module of this package imports one of ``names``, by the import statements at their tops."""
    return _reaches(module, names, set())


def _reaches(module: str, names: tuple[str, ...], seen: set[str]) -> bool:
    if module in seen:
        return False
    seen.add(module)
    tree = tree_of(module)
    found = [module.rpartition(".")[0]] if "." in module else []  # the package a module lies in is imported first
    for node in tree.body if tree else []:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    if any(name.partition(".")[0] in names for name in found):
        return True
    return any(_reaches(name, names, seen) for name in found if is_own(name))
