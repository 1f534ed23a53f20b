"""Every hook in the language model, found by walking its modules: where it stands, whose it is, and when it works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

from torch import nn

from mmllm.certificates.code import OURS, name_of
from mmllm.certificates.watching import hook_name
from mmllm.connectors.base import Connector, DeepFusion
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.model import MultimodalLM

PASSING = ("_forward_hooks", "_forward_pre_hooks")
"""Hooks that run in a forward pass."""
DEPTH = 8
"""How far what a function holds is followed: hooks of hooks are three deep."""


@dataclass(frozen=True)
class Attached:
    """One hook."""

    place: str
    """Name of it: the module and the kind and number of the hook there."""
    function: str
    """What runs."""
    owner: str | None
    """Key of the connector it belongs to; None: it is nobody's."""
    known: bool
    """Whether all of its code is a connector's or this project's."""


def hooks_of(model: MultimodalLM) -> list[Attached]:
    """All hooks that run in a pass of the LLM."""
    return [_attached(place, function, model.connectors) for place, function in _found(model.llm)]


def unlike_bare(llm: CausalLM, bare: nn.Module) -> Iterator[tuple[str, str]]:
    """(place, what) of hooks of other kinds, around saving or the backward pass, that the bare model does not have."""
    others = dict(bare.named_modules())
    for name, module in llm.model.named_modules():
        for kind, hooks in vars(module).items():
            if not kind.endswith("_hooks") or kind in PASSING or not isinstance(hooks, Mapping):
                continue
            there = vars(others[name]).get(kind, {}) if name in others else {}
            if len(hooks) != len(there):
                shown = ", ".join(name_of(one) for one in hooks.values())
                yield f"{name or 'the model'}: {kind.strip('_').replace('_', ' ')}", f"are {shown}"


def rule(connector: Connector) -> str:
    """The rule under which a connector works, in words."""
    if connector.when is not None:
        return f"in conversations with {' or '.join(connector.when)} (when)"
    if isinstance(connector, DeepFusion):
        return "where its own layers say, without when"
    return "in every conversation"


def _found(llm: CausalLM) -> Iterator[tuple[str, Any]]:
    for name, module in llm.model.named_modules():
        for kind in PASSING:
            for number, hook in enumerate(vars(module)[kind].values()):
                yield hook_name(name, kind, number), hook
    for layer, extensions in llm._extensions.items():
        for number, extend in enumerate(extensions):
            yield hook_name(f"attention {layer}", "_extensions", number), extend
    for number, change in enumerate(llm._logit_changes):
        yield hook_name("logits", "_logit_changes", number), change


def _attached(place: str, function: Any, connectors: nn.ModuleDict) -> Attached:
    owners = {id(module): key for key, one in connectors.items() for module in one.modules()}
    files = {_file_of(type(one)) for one in connectors.values()}
    owner, known = None, True
    for held in _held(function):
        owner = owner or owners.get(id(held))
        if isinstance(held, FunctionType):
            file = Path(held.__code__.co_filename)
            known = known and (file.is_relative_to(OURS) or str(file) in files)
    return Attached(place, name_of(_inmost(function)), owner, known)


def _file_of(kind: type) -> str:
    methods = [one for one in vars(kind).values() if isinstance(one, FunctionType)]
    return methods[0].__code__.co_filename if methods else ""


def _inmost(function: Any) -> Any:
    """The change that a hook applies, where it is one of this project's hooks; else the function itself."""
    if not isinstance(function, FunctionType):
        return function
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    change = cells.get("change", cells.get("choose"))
    return function if change is None else _inmost(change.cell_contents)


def _held(value: Any, depth: int = 0) -> Iterator[Any]:
    """What a function holds on to: itself, its closure, its arguments and the object it is a method of."""
    yield value
    if depth == DEPTH:
        return
    inner: list[Any] = []
    if isinstance(value, partial):
        inner = [value.func, *value.args, *value.keywords.values()]
    elif hasattr(value, "__self__") and hasattr(value, "__func__"):
        inner = [value.__self__, value.__func__]
    elif isinstance(value, FunctionType):
        inner = [*(_content(cell) for cell in value.__closure__ or ()), *(value.__defaults__ or ())]
    elif isinstance(value, list | tuple):
        inner = list(value)
    for one in inner:
        yield from _held(one, depth + 1)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return None
