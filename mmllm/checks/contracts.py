"""Classes of other packages against the contract of their kind, as far as a class tells without an instance of it."""

from __future__ import annotations

import ast
import builtins
import dis
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

from mmllm import registry

BASES = {"encoders": "Encoder", "datasets": "Dataset", "benchmarks": "Benchmark"}
"""Group -> base class of its parts; connectors have several, which reading the recipe asks for."""
METHODS = {
    "Encoder": {"forward": 0},
    "Projector": {"out_grid": 1, "forward": 1},
    "DeepFusion": {"remember": 1, "attach": 1},
    "LLMAdapter": {"attach": 1},
    "EncoderAdapter": {"attach": 2},
}
"""Base class -> method that a part has to have -> values that it is called with."""
_GIVES = {
    "attach": "a Handle (of mmllm.hooks), which takes its hooks out again",
    "out_grid": "the grid of the tokens",
    "remember": "what its layers read",
    "forward": "what it computes",
}
"""Method -> what it returns."""
_HOOK_POINTS = {"LLMAdapter": "LLMHookPoints", "EncoderAdapter": "AdaptableEncoder"}


def problems(group: str, type: str) -> Iterator[str]:
    """A sentence for each way in which the class of a part does not do what its kind has to; it is imported."""
    kind = registry.load(group, type)
    bases = registry.bases(group, type)
    wanted = BASES.get(group)
    if wanted is not None and wanted not in bases:
        yield f'"{type}" does not derive from {wanted}, the base class of {group}; derive it from that'
        return
    lacking = sorted(kind.__abstractmethods__) if inspect.isabstract(kind) else []
    if lacking:
        pronoun = "it" if len(lacking) == 1 else "them"
        yield f'"{type}" lacks {_listed(lacking)}, which every {wanted or "connector"} has; write {pronoun}'
    chosen = [base for base in METHODS if base in bases]
    if "DeepFusion" in chosen:
        chosen.remove("LLMAdapter")
    for base in chosen:
        for method, count in METHODS[base].items():
            yield from _method(type, kind, base, method, count)


def _method(type: str, kind: Any, base: str, name: str, count: int) -> Iterator[str]:
    """One required method: written, called as it will be, giving something, with names that exist."""
    function = inspect.getattr_static(kind, name)
    if not isinstance(function, FunctionType):
        return  # a descriptor of another kind: only calling it could tell
    if function.__module__.startswith("mmllm.") and _only_raises(function):
        yield f'"{type}" has no {name} of its own, which every {base} needs; it returns {_GIVES[name]}'
        return
    if function.__module__.partition(".")[0] == registry.OWN:
        return
    try:
        inspect.signature(function).bind(None, *[None] * count)
    except TypeError as error:
        yield f'{name} of "{type}" cannot be called with {count} value{"s" * (count != 1)} ({error}), as it will be'
    if not _gives_something(function):
        yield f'{name} of "{type}" returns nothing; it has to return {_GIVES[name]}'
    for one in _unknown_names(function):
        yield f'{name} of "{type}" uses the name {one}, which {function.__module__} does not define'
    if name == "attach" and base in ("LLMAdapter", "DeepFusion", "EncoderAdapter"):
        yield from _unknown_points(type, function, "EncoderAdapter" if base == "EncoderAdapter" else "LLMAdapter")


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _tree(function: Callable[..., Any]) -> ast.FunctionDef | None:
    """Syntax tree of a function; None where its source is not there."""
    try:
        found = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None
    return found if isinstance(found, ast.FunctionDef) else None


def _only_raises(function: Callable[..., Any]) -> bool:
    """Whether a method is a base class's placeholder: ``raise NotImplementedError`` behind its docstring."""
    tree = _tree(function)
    return tree is not None and isinstance(tree.body[-1], ast.Raise) and len(tree.body) <= 2


def _gives_something(function: Callable[..., Any]) -> bool:
    """Whether a method returns a value, yields, or leaves by an error alone."""
    tree = _tree(function)
    if tree is None:
        return True
    for node in ast.walk(tree):
        if isinstance(node, ast.Yield | ast.YieldFrom) or (isinstance(node, ast.Return) and not _is_none(node.value)):
            return True
    return isinstance(tree.body[-1], ast.Raise)


def _is_none(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _unknown_names(function: FunctionType) -> list[str]:
    """Global names in a function's code, and in the functions inside it, that nothing defines."""
    known = {*function.__globals__, *vars(builtins)}
    return sorted({name for code in _codes(function.__code__) for name in _globals(code)} - known)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _codes(one)


def _globals(code: CodeType) -> Iterator[str]:
    return (one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"))


def _unknown_points(type: str, function: FunctionType, base: str) -> Iterator[str]:
    """Hook points that ``attach`` asks its first argument for and that there are not."""
    points = importlib.import_module("mmllm.hooks.points")
    protocol = getattr(points, _HOOK_POINTS[base])
    known = {name for one in protocol.__mro__ for name in (*vars(one), *vars(one).get("__annotations__", {}))}
    tree = _tree(function)
    argument = tree.args.args[1].arg if tree is not None and len(tree.args.args) > 1 else None
    asked = {
        node.attr
        for node in (ast.walk(tree) if tree else ())
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == argument
    }
    for name in sorted(asked - known):
        near = registry.nearest(name, known)
        if near:  # without a near name it may be something that one model has beyond the contract
            yield f'attach of "{type}" asks {argument} for {name}, which is no hook point; did you mean "{near}"?'
