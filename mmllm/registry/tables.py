"""Name -> "module:Class" tables of encoders, connectors, sources and benchmarks, read without importing any part.

First stop of everything that turns a recipe's ``type:`` into a class. A class is imported only by ``load``; its
arguments and summary are read from its source text, so that ``mmllm ls`` and ``mmllm check`` never wait for torch.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

PACKAGES = {
    "encoders": "mmllm.encoders",
    "connectors": "mmllm.connectors",
    "sources": "mmllm.datasets",
    "benchmarks": "mmllm.evaluation.benchmarks",
}
"""Group -> package whose ``TABLE`` lists it; third parties add to a group by entry points named ``mmllm.<group>``."""


EncoderPart = Mapping[str, Any]
"""An argument that is an encoder itself: its ``type`` and arguments; the recipe's checks look into it."""


class UnknownName(LookupError):
    """A name that no table holds, or a "module:Class" that is not there; the message is one full sentence."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a part's ``__init__`` as its source text declares it."""

    name: str
    annotation: str
    """Text of the annotation, empty where there is none."""
    required: bool
    default: str
    """Text of the default, empty where there is none."""
    variadic: bool = False
    """True for ``**name``: the part takes any further argument."""


def groups() -> tuple[str, ...]:
    """The kinds of parts that recipes name."""
    return tuple(PACKAGES)


def table(group: str) -> dict[str, str]:
    """Name -> "module:Class" of one group: the package's table and entry points, which may not redefine a name."""
    if group not in PACKAGES:
        raise UnknownName(_unknown(f'there is no group "{group}"', group, PACKAGES))
    found = dict(importlib.import_module(PACKAGES[group]).TABLE)
    for point in _points(group, tuple(sys.path)):
        if found.setdefault(point.name, point.value) != point.value:
            raise UnknownName(
                f'entry point mmllm.{group} "{point.name}" = {point.value} redefines {found[point.name]}; '
                "rename it in the package that declares it."
            )
    return found


@lru_cache(maxsize=16)
def _points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Entry points of the packages on ``path``, which is ``sys.path``: every one's files are read once."""
    return tuple(entry_points(group=f"mmllm.{group}"))


def locate(group: str, type: str) -> str:
    """The "module:Class" of a table name; a name with a colon is taken as such already. Unknown -> ``UnknownName``."""
    if ":" in type:
        return type
    known = table(group)
    if type not in known:
        raise UnknownName(_unknown(f'{group} has no type "{type}"', type, known))
    return known[type]


def load(group: str, type: str) -> Any:
    """Import and return the class that ``type`` (table name or "module:Class") means."""
    where = locate(group, type)
    module_name, _, class_name = where.partition(":")
    _definition(where)
    return getattr(importlib.import_module(module_name), class_name)


def parameters(group: str, type: str) -> dict[str, Parameter]:
    """Arguments of the class's ``__init__`` (inherited ones included), in order, read without importing it."""
    return _parameters(*_definition(locate(group, type)))


def methods(group: str, type: str) -> set[str]:
    """Methods that the class defines, with those of its bases but for the last one that can be read; not imported."""
    found: set[str] = set()
    where: tuple[str, ast.ClassDef] | None = _definition(locate(group, type))
    while where is not None:
        module_name, definition = where
        bases = [_base(module_name, base) for base in definition.bases]
        where = next((base for base in bases if base is not None), None)
        if where is not None:
            found |= {node.name for node in definition.body if isinstance(node, ast.FunctionDef)}
    return found


def summary(group: str, type: str) -> str:
    """First line of the class's docstring."""
    _, definition = _definition(locate(group, type))
    return (ast.get_docstring(definition) or "").partition("\n")[0]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was most likely meant to be, if any is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def _unknown(found: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not in ``known``; ``found`` says what there is not."""
    near = nearest(name, known)
    hint = f'; did you mean "{near}"?' if near else "."
    return f"{found}; known: {', '.join(sorted(known)) or 'none'}{hint}"


def _definition(where: str) -> tuple[str, ast.ClassDef]:
    """(module name, class statement) of a "module:Class"; ``UnknownName`` where there is no such file or class."""
    module_name, _, class_name = where.partition(":")
    tree = _tree(module_name)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)} if tree else {}
    if class_name not in classes:
        found = f"module {module_name} has no class {class_name}" if tree else f"there is no module {module_name}"
        near = nearest(class_name, classes)
        raise UnknownName(f'"{where}" cannot be found: {found}' + (f'; did you mean "{near}"?' if near else "."))
    return module_name, classes[class_name]


@lru_cache(maxsize=256)
def _tree(module_name: str) -> ast.Module | None:
    """Syntax tree of a module's source, found without importing it or its parents; None where there is none."""
    first, *rest = module_name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except ValueError:  # a module that is running as a script has no spec
        return None
    for depth in range(len(rest)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(".".join([first, *rest[: depth + 1]]), list(spec.submodule_search_locations))
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _parameters(module_name: str, definition: ast.ClassDef) -> dict[str, Parameter]:
    """Own arguments; those of the base where the class has no ``__init__`` or hands ``**name`` on to it."""
    init = next((n for n in definition.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    own = _arguments(init.args) if init else {}
    variadic = [name for name, parameter in own.items() if parameter.variadic]
    if init is not None and not variadic:
        return own
    inherited: dict[str, Parameter] = {}
    for base in definition.bases:
        found = _base(module_name, base)
        if found is not None:
            inherited = _parameters(*found)
            break
    if inherited and variadic:  # the base says what **name may hold
        own = {name: parameter for name, parameter in own.items() if not parameter.variadic}
    return own | {name: parameter for name, parameter in inherited.items() if name not in own}


def _base(module_name: str, base: ast.expr) -> tuple[str, ast.ClassDef] | None:
    """Where a base class is defined: this module or the one it is imported from; None outside what can be read."""
    if not isinstance(base, ast.Name):
        return None
    tree = _tree(module_name)
    for node in tree.body if tree else []:
        if isinstance(node, ast.ClassDef) and node.name == base.id:
            return module_name, node
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                if (alias.asname or alias.name) == base.id and _tree(node.module) is not None:
                    return _definition(f"{node.module}:{alias.name}")
    return None


def _arguments(arguments: ast.arguments) -> dict[str, Parameter]:
    """An ``__init__``'s arguments without ``self``."""
    positional = [*arguments.posonlyargs, *arguments.args]
    missing = len(positional) - len(arguments.defaults)
    defaults: list[ast.expr | None] = [*([None] * missing), *arguments.defaults]
    pairs = [*zip(positional, defaults, strict=True)][1:]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    found = {}
    for argument, default in pairs:
        quoted = isinstance(argument.annotation, ast.Constant) and isinstance(argument.annotation.value, str)
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        annotation = ast.literal_eval(annotation) if quoted else annotation
        text = ast.unparse(default) if default is not None else ""
        found[argument.arg] = Parameter(argument.arg, annotation, default is None, text)
    if arguments.kwarg:
        name = arguments.kwarg.arg
        found[name] = Parameter(name, "", False, "", variadic=True)
    return found
