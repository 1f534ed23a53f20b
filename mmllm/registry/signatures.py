"""Arguments, summary and base classes of a part: built-in ones by their source text, others by importing them.

So ``mmllm ls`` and ``mmllm check`` never wait for torch unless a recipe names a part of another package, which may
spell its bases and annotations in any way that Python allows.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from mmllm.registry.tables import UnknownName, locate, nearest

OWN = "mmllm"
"""Package whose parts are read by their source: there each base is a plain name, imported from where it is defined."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a part's ``__init__``."""

    name: str
    annotation: str
    """Text of the annotation, empty where there is none."""
    required: bool
    default: str
    """Text of the default, empty where there is none."""
    variadic: bool = False
    """True for ``**name``: the part takes any further argument."""
    hint: Any = None
    """The annotation as a type, where the part was imported; None where only its text was read."""


def load(group: str, type: str) -> Any:
    """Import and return the class that ``type`` (table name or "module:Class") means."""
    return _imported(locate(group, type))


def parameters(group: str, type: str) -> dict[str, Parameter]:
    """Arguments of the class's ``__init__`` (inherited ones included), in order."""
    where = locate(group, type)
    return _parameters(*definition_of(where)) if is_own(where) else _inspected(_imported(where))


def bases(group: str, type: str) -> list[str]:
    """Names of the class and of all its bases that are classes of this package, nearest first."""
    where = locate(group, type)
    if not is_own(where):
        return [one.__name__ for one in _imported(where).__mro__ if one.__module__.partition(".")[0] == OWN]
    return list(dict.fromkeys(definition.name for _, definition in lineage(*definition_of(where))))


def summary(group: str, type: str) -> str:
    """First line of the class's docstring."""
    where = locate(group, type)
    text = ast.get_docstring(definition_of(where)[1]) if is_own(where) else inspect.getdoc(_imported(where))
    return (text or "").partition("\n")[0]


def is_own(where: str) -> bool:
    """Whether a module or "module:Class" is of this package."""
    return where.partition(".")[0] == OWN


# ---- by import


def _imported(where: str) -> Any:
    """The class of a "module:Class"; ``UnknownName`` where there is none or its module cannot be imported."""
    module_name, _, class_name = where.partition(":")
    if is_own(where) or tree_of(module_name) is None:
        definition_of(where)  # says what is wrong without running anything
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if is_own(where):
            raise
        raise UnknownName(
            f'"{where}" cannot be used: importing {module_name} fails ({type(error).__name__}: {error}).'
        ) from error
    if not isinstance(getattr(module, class_name, None), type):  # it may be defined elsewhere and named here
        near = nearest(class_name, vars(module))
        hint = f'; did you mean "{near}"?' if near else "."
        raise UnknownName(f'"{where}" cannot be found: module {module_name} has no class {class_name}{hint}')
    return getattr(module, class_name)


def _inspected(kind: Any) -> dict[str, Parameter]:
    """Arguments of a class, with those of its bases where it hands ``**name`` on."""
    found: dict[str, Parameter] = {}
    variadic: dict[str, Parameter] = {}
    for owner in kind.__mro__:
        if "__init__" not in vars(owner) or owner is object:
            continue
        own = _of_function(owner.__init__)
        found |= {name: one for name, one in own.items() if name not in found and not one.variadic}
        variadic = {name: one for name, one in own.items() if one.variadic}
        if not variadic or owner.__module__.partition(".")[0] not in (OWN, kind.__module__.partition(".")[0]):
            break
    return found | variadic  # no base says what the last `**name` may hold, so it takes anything


def _of_function(function: Any) -> dict[str, Parameter]:
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # names that exist for type checkers only: then the text is all there is
        hints = {}
    found = {}
    for name, one in list(inspect.signature(function).parameters.items())[1:]:
        if one.kind is one.VAR_POSITIONAL:
            continue
        text = "" if one.annotation is one.empty else inspect.formatannotation(one.annotation).strip("'\"")
        default = "" if one.default is one.empty else repr(one.default)
        variadic = one.kind is one.VAR_KEYWORD
        found[name] = Parameter(
            name, text, one.default is one.empty and not variadic, default, variadic, hints.get(name)
        )
    return found


# ---- by source


def definition_of(where: str) -> tuple[str, ast.ClassDef]:
    """(module name, class statement) of a "module:Class"; ``UnknownName`` where there is no such file or class."""
    module_name, _, class_name = where.partition(":")
    tree = tree_of(module_name)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)} if tree else {}
    if class_name not in classes:
        found = f"module {module_name} has no class {class_name}" if tree else f"there is no module {module_name}"
        near = nearest(class_name, classes)
        raise UnknownName(f'"{where}" cannot be found: {found}' + (f'; did you mean "{near}"?' if near else "."))
    return module_name, classes[class_name]


@lru_cache(maxsize=256)
def tree_of(module_name: str) -> ast.Module | None:
    """Syntax tree of a module's source, found without importing it or its parents; None where there is none."""
    first, *rest = module_name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except ValueError:  # a module that is running as a script has no spec
        return None
    for depth in range(len(rest)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        # not importlib.util.find_spec: for a module inside a package it imports the package, and with it torch
        spec = PathFinder.find_spec(".".join([first, *rest[: depth + 1]]), list(spec.submodule_search_locations))
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise UnknownName(
            f"module {module_name} cannot be read: {spec.origin}, line {error.lineno}: {error.msg}."
        ) from error


def lineage(module_name: str, definition: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef]]:
    """The class and its bases that can be read, depth first."""
    yield module_name, definition
    for base in definition.bases:
        found = _base(module_name, base)
        if found is not None:
            yield from lineage(*found)


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
    """Definition of a base class, in this module or the one it is imported from; None outside what can be read."""
    if not isinstance(base, ast.Name):
        return None
    tree = tree_of(module_name)
    for node in tree.body if tree else []:
        if isinstance(node, ast.ClassDef) and node.name == base.id:
            return module_name, node
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                if (alias.asname or alias.name) == base.id and tree_of(node.module) is not None:
                    return definition_of(f"{node.module}:{alias.name}")
    return None


def _arguments(arguments: ast.arguments) -> dict[str, Parameter]:
    """An ``__init__``'s arguments without ``self``."""
    positional = [*arguments.posonlyargs, *arguments.args]
    missing = len(positional) - len(arguments.defaults)
    defaults: list[ast.expr | None] = [*([None] * missing), *arguments.defaults]
    # the first is self
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
