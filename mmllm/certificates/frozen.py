"""The language model in use beside the one of its own folder: every module, weight, setting and piece of code compared.

What is found is not sampled: the trees of both are walked whole. Hooks are only counted here; what they do is shown by
``watching``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from mmllm.certificates.code import keeps_values, name_of

CHUNK = 2**24
"""Elements hashed at a time."""
PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)
OWN = ("_attn_implementation", "_attn_implementation_internal", "_name_or_path", "transformers_version")
"""Words of a config that say how it was loaded; the attention is looked at by itself."""


HOOKS = ("_hooks", "_with_kwargs", "_always_called")
"""Ends of the names of what a module keeps of its hooks."""


@dataclass(frozen=True)
class Difference:
    """Something in the model in use that the bare model does not have, or has otherwise."""

    part: str
    """Name of it: a module, tensor, setting or hook of the LLM."""
    what: str
    """What differs, in a few words."""


def tensor_digest(tensor: Tensor) -> str:
    """sha256 over data type, shape and bytes."""
    total = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    for piece in tensor.detach().contiguous().flatten().split(CHUNK):
        total.update(piece.cpu().view(torch.uint8).numpy().data)
    return total.hexdigest()


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by every name it has, those that are not saved and tied ones too."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return dict(sorted(named))


def tensor_digests(model: nn.Module) -> dict[str, str]:
    """Name -> digest of every tensor."""
    known: dict[int, str] = {}
    found = {}
    for name, tensor in tensors(model).items():
        if id(tensor) not in known:
            known[id(tensor)] = tensor_digest(tensor)
        found[name] = known[id(tensor)]
    return found


def computed(model: nn.Module) -> set[str]:
    """Names of buffers that no file holds: the machine computes them (angles of rotary positions)."""
    found = set()
    for name, module in model.named_modules():
        found |= {f"{name}.{word}".lstrip(".") for word in module._non_persistent_buffers_set}
    return found


def differing_weights(own: nn.Module, bare: nn.Module) -> list[Difference]:
    """Tensors with other numbers, types or shapes, too many or too few, or tied otherwise; by their digests."""
    here, there = tensor_digests(own), tensor_digests(bare)
    found = []
    for name in sorted({*here, *there}):
        if name not in there:
            found.append(Difference(name, "is a tensor that the bare model does not have"))
        elif name not in here:
            found.append(Difference(name, "is a tensor of the bare model that is not there"))
        elif here[name] != there[name]:
            one, other = tensors(own)[name], tensors(bare)[name]
            same = (one.dtype, one.shape) == (other.dtype, other.shape)
            what = "has other numbers" if same else f"is {_kind(one)} instead of {_kind(other)}"
            found.append(Difference(name, f"{what} than in the bare model" if same else what))
    ties, others = _ties(own), _ties(bare)
    for names in sorted(ties ^ others):
        what = "are one tensor here and several in the bare model" if names in ties else "are no longer one tensor"
        found.append(Difference(" and ".join(names), what))
    return found


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _ties(model: nn.Module) -> set[tuple[str, ...]]:
    """Groups of names of one tensor."""
    groups: dict[int, list[str]] = {}
    for name, tensor in tensors(model).items():
        groups.setdefault(id(tensor), []).append(name)
    return {tuple(names) for names in groups.values() if len(names) > 1}


def differing_modules(own: nn.Module, bare: nn.Module) -> Iterator[Difference]:
    """Modules of another class or with other settings, wrapped or put in, and forwards on instances."""
    here, there = dict(own.named_modules(remove_duplicate=False)), dict(bare.named_modules(remove_duplicate=False))
    for name in dict.fromkeys([*here, *there]):
        shown = name or "the model"
        if name not in there:
            yield Difference(shown, f"is a module ({type(here[name]).__name__}) that the bare model does not have")
        elif name not in here:
            yield Difference(shown, "is a module of the bare model that is not there")
        elif type(here[name]) is not type(there[name]):
            yield Difference(
                shown, f"is a {type(here[name]).__name__}, in the bare model a {type(there[name]).__name__}"
            )
        else:
            for word, what in _settings(here[name], there[name]):
                yield Difference(f"{shown}.{word}", what)


def _settings(one: nn.Module, other: nn.Module) -> Iterator[tuple[str, str]]:
    """Attributes of a module that are set otherwise."""
    here, there = vars(one), vars(other)
    for word in sorted({*here, *there}):
        if word in ("_parameters", "_buffers", "_modules") or word.endswith(HOOKS):
            continue  # looked at by themselves
        if word == "forward":
            if word in here and not keeps_values(one, here[word]):
                yield word, f"is replaced on the instance by {name_of(here[word])}"
        elif word not in here or word not in there:
            yield word, f"is set {'only here' if word in here else 'only in the bare model'}"
        elif not same_value(here[word], there[word]):
            yield word, f"is {_shown(here[word])}, in the bare model {_shown(there[word])}"


def same_value(one: Any, other: Any) -> bool:
    """Whether two settings are the same, as far as they are plain values, tensors, code or collections of such."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        both = isinstance(one, Tensor) and isinstance(other, Tensor)
        return both and tensor_digest(one) == tensor_digest(other)
    if isinstance(one, PLAIN) or isinstance(other, PLAIN):
        return type(one) is type(other) and (one == other or (one != one and other != other))
    if isinstance(one, transformers.PretrainedConfig) and isinstance(other, transformers.PretrainedConfig):
        return not differing_words(one.to_dict(), other.to_dict())
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_value(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple | set | frozenset):
        if isinstance(one, set | frozenset):
            return bool(one == other)
        return type(one) is type(other) and len(one) == len(other) and all(map(same_value, one, other))
    if callable(one) and hasattr(one, "__code__"):
        return hasattr(other, "__code__") and one.__code__ is other.__code__
    return type(one) is type(other)


def differing_words(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Words of two configs that differ, but those that say how a model was loaded."""
    words = sorted({*one, *other}.difference(OWN))
    return [w for w in words if (w in one) != (w in other) or (w in one and not same_value(one[w], other[w]))]


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, PLAIN) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."
