"""The code that a model runs: whether classes and functions are those that their packages define.

A patched method of a class would act on the bare model too, so comparing the two models does not show it.
"""

from __future__ import annotations

import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn.modules import module as torch_modules
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mmllm import errors
from mmllm.llms.attention import ATTENTION, attention
from mmllm.llms.gated_mlp import keep_less
from mmllm.llms.last_block import at_wanted

OURS = Path(errors.__file__).parent
PACKAGES = (Path(torch.__file__).parent, Path(transformers.__file__).parent, OURS)
"""Folders that the code of a frozen model comes from."""
PYTHON = Path(sysconfig.get_paths()["stdlib"])


def name_of(function: Any) -> str:
    """Where a function or an object that is called stands: its module and name."""
    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    kind = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{kind.__module__}.{kind.__qualname__}"


def keeps_values(module: nn.Module, function: Any) -> bool:
    """Whether a forward on an instance is one of the two that change no number of it: one keeps less for the backward
    pass, the other runs the last block at chosen positions; and stands directly on the class's own."""
    code = getattr(function, "__code__", None)
    if code is None or code not in {*_made_in(keep_less), *_made_in(at_wanted)}:
        return False
    plain = inspect.getclosurevars(function).nonlocals["plain"]
    return inspect.ismethod(plain) and plain.__self__ is module and plain.__func__ is type(module).forward


def _made_in(function: Callable[..., Any]) -> Iterator[CodeType]:
    """Code of the functions that a function makes."""
    return (one for one in function.__code__.co_consts if inspect.iscode(one))


def replaced(classes: Iterable[type]) -> Iterator[tuple[str, str]]:
    """(class and method, what stands there) of methods that are not those which the class's own file defines."""
    known = dict.fromkeys(one for kind in classes for one in kind.__mro__)
    for kind in known:
        module = sys.modules[kind.__module__]
        own = kind.__module__.startswith(f"{OURS.name}.") or issubclass(kind, nn.Module)
        if not own or not _is_known(_file(module)):
            continue
        for name, value in list(vars(kind).items()):
            for function in _functions(value):
                if not _belongs(function, kind, name):
                    yield f"{kind.__module__}.{kind.__qualname__}.{name}", f"is replaced by {_site(function)}"


def replaced_functions(modules: Iterable[ModuleType]) -> Iterator[tuple[str, str]]:
    """(module and function, what stands there) of functions that no package of a frozen model has."""
    for module in dict.fromkeys(modules):
        for name, value in list(vars(module).items()):
            if isinstance(value, FunctionType) and not all(map(_is_known_code, _layers(value))):
                yield f"{module.__name__}.{name}", f"is replaced by {_site(value)}"
            elif isinstance(value, FunctionType) and value.__module__ == module.__name__ and value.__name__ != name:
                if vars(module).get(value.__name__) is not value:
                    yield f"{module.__name__}.{name}", f"is replaced by {_site(value)}"


def around_everything() -> Iterator[tuple[str, str]]:
    """(place, what stands there) of what torch and transformers run around or instead of every module of a process."""
    for name, value in vars(torch_modules).items():
        if name.startswith("_global_") and name.endswith("hooks") and value:
            shown = ", ".join(name_of(one) for one in value.values())
            yield f"torch.nn.modules.module.{name}", f"holds {len(value)} hooks of every module: {shown}"
    for name in ("function", "dispatch"):
        # private in torch (read in 2.15): there is no public way to ask which modes are on
        if getattr(torch._C, f"_len_torch_{name}_stack")():
            yield f"torch.{name}_mode", "is on, and may change any operation"
    expected = {
        f"AttentionInterface[{ATTENTION!r}]": (ALL_ATTENTION_FUNCTIONS, attention),
        f"AttentionMaskInterface[{ATTENTION!r}]": (ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask),
    }
    for place, (table, wanted) in expected.items():
        if table[ATTENTION] is not wanted:
            yield f"transformers.{place}", f"is {name_of(table[ATTENTION])} instead of {name_of(wanted)}"
    for name, builtin in (("linear", torch._C._nn.linear), ("scaled_dot_product_attention", None)):
        found = getattr(torch.nn.functional, name)
        if found is not (builtin or torch._C._nn.scaled_dot_product_attention):
            yield f"torch.nn.functional.{name}", f"is replaced by {name_of(found)}"


def put_on(model: nn.Module) -> Iterator[tuple[str, str]]:
    """(place, what) of methods that stand on an instance of this project's parts of a model instead of their class."""
    for name, one in model.named_modules():
        if type(one).__module__.startswith(f"{OURS.name}."):
            for word, value in vars(one).items():
                if isinstance(getattr(type(one), word, None), FunctionType):
                    yield f"{name or 'the model'}.{word}", f"is replaced on the instance by {name_of(value)}"


def own_modules() -> list[ModuleType]:
    """Modules of this project that are loaded."""
    return [one for name, one in list(sys.modules.items()) if name.partition(".")[0] == OURS.name and one is not None]


def _functions(value: Any) -> list[FunctionType]:
    """Functions that an attribute of a class runs."""
    if isinstance(value, property):
        return [one for one in (value.fget, value.fset) if isinstance(one, FunctionType)]
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    return [value] if isinstance(value, FunctionType) else []


def _belongs(function: FunctionType, kind: type, name: str) -> bool:
    """Whether a method is the class's own: written in its file under its name, and wrapped by known packages alone."""
    layers = list(_layers(function))
    if not all(map(_is_known_code, layers)):
        return False
    if not kind.__module__.startswith(("transformers.models.", f"{OURS.name}.")):
        return True  # torch's own classes make methods of functions that stand elsewhere
    own = layers[-1]
    written = Path(own.__code__.co_filename) == _file(sys.modules[kind.__module__])
    return not written or own.__qualname__.startswith(f"{kind.__qualname__}.") or own.__qualname__ == name or _made(own)


def _made(function: FunctionType) -> bool:
    """Whether a function was made by another or by a decorator, such as those of dataclasses."""
    return "<locals>" in function.__qualname__


def _layers(function: FunctionType) -> Iterator[FunctionType]:
    """A function and what it wraps, outermost first."""
    while True:
        yield function
        inner = function.__dict__.get("__wrapped__")
        if not isinstance(inner, FunctionType):
            return
        function = inner


def _is_known_code(function: FunctionType) -> bool:
    name = function.__code__.co_filename
    # code that Python makes itself: of dataclasses, named tuples
    return name.startswith("<") or _is_known(Path(name))


def _is_known(file: Path | None) -> bool:
    if file is None:
        return False
    if file.is_relative_to(PYTHON):
        return "site-packages" not in file.parts and "dist-packages" not in file.parts
    return any(file.is_relative_to(package) for package in PACKAGES)


def _file(module: ModuleType) -> Path | None:
    file = module.__file__ if "__file__" in vars(module) else None
    return None if file is None else Path(file)


def _site(function: FunctionType) -> str:
    code = function.__code__
    return f"{name_of(function)} ({Path(code.co_filename).name}:{code.co_firstlineno})"
