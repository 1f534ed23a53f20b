"""The projector of a published multimodal folder as a connector here that computes the same: type, arguments, tensors.

``model/start.py`` copies the tensors, ``published`` writes recipes with the arguments, ``exporting`` writes them back;
what no connector computes is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from mmllm.errors import MmllmError
from mmllm.vlms.families import FAMILIES, Family, family_of
from mmllm.vlms.projector_layouts import DEFAULTS, DEFAULTS_OF, LAYOUTS, NEWLINE, Layout, Words
from mmllm.vlms.tensors import read_tensors


def projector_words(path: str, config: Any) -> Words:
    """Type and arguments of the connector that computes a folder's projector.

    Raises:
        MmllmError: none does.
    """
    family = family_of(config)
    if family is None:
        raise MmllmError(
            f"the projector of {path!r} ({config.model_type}) is not known, so no connector here computes it; leave "
            "start out and train one"
        )
    return LAYOUTS[config.model_type].words(config)


def projector_tensors(
    path: str, type: str, args: Mapping[str, Any], names: frozenset[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of the projector at ``path`` by the names of a connector ``type``, and names of those left out.

    A projector without biases gives zeros for those of the connector, which computes the same.

    Args:
        path: folder or hub id of the published model.
        type: of the connector.
        args: of the connector, as the recipe has them.
        names: of the connector's tensors.

    Raises:
        MmllmError: not a known published model, or this connector does not compute its projector.
    """
    config = AutoConfig.from_pretrained(path)
    family = family_of(config)
    if family is None:
        known = ", ".join(FAMILIES[kind].name for kind in LAYOUTS)
        raise MmllmError(
            f"{path!r} is a {config.model_type}, whose projector is not known; known are {known}. Give a safetensors "
            "file: start: {path: FILE, prefix: ..., rename: {...}}"
        )
    _check(path, type, args, projector_words(path, config), family, LAYOUTS[config.model_type])
    layout = LAYOUTS[config.model_type]
    if layout.read is not None:
        found = layout.read(path, config)
        # a connector that takes pictures whole, or puts text between tiles, does without
        left = [name for name in found if name.startswith("stitch.") and name not in names]
        return {name: tensor for name, tensor in found.items() if name not in left}, left
    names_there = layout.tensors(config) if callable(layout.tensors) else layout.tensors
    found = _published_tensors(path, family, layout)
    found = found if layout.joined is None else layout.joined(found)
    taken: dict[str, Tensor] = {}
    left = []
    for name, tensor in found.items():
        layer, _, kind = name.rpartition(".")
        if names_there.get(name) == NEWLINE and NEWLINE not in names:
            left.append(name)  # a connector that takes pictures whole does without
        elif name in names_there:
            taken[names_there[name]] = tensor
        elif layer in names_there:
            taken[f"{names_there[layer]}.{kind}"] = tensor
        elif (inner := _renamed(name, names_there)) in names:
            taken[inner] = tensor
        else:
            left.append(name)
    taken = {name: layout.changed[name](one) if name in layout.changed else one for name, one in taken.items()}
    for name in list(taken):
        bias = f"{name.removesuffix('.weight')}.bias"
        if name.endswith(".weight") and bias in names and bias not in taken:
            taken[bias] = torch.zeros(len(taken[name]))
    return taken, left


def published_tensors(
    path: str, config: Any, type: str, args: Mapping[str, Any], learned: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The reverse of :func:`projector_tensors`: tensors of a connector by the names that the whole model has for them.

    Raises:
        MmllmError: this connector does not compute the projector of the model at ``path``, or it is not written.
    """
    family = family_of(config)
    assert family is not None
    layout = LAYOUTS.get(config.model_type)
    if layout is None or layout.joined is not None:
        raise MmllmError(
            f"--to hf: the projector of {family.name} is read here, but not written back: what was learned in it need "
            "not have its published form; keep the run"
        )
    _check(path, type, args, projector_words(path, config), family, layout)
    if layout.write is not None:
        return layout.write(config, learned)
    names_there = layout.tensors(config) if callable(layout.tensors) else layout.tensors
    layers = {ours: theirs for theirs, ours in names_there.items()}
    found = {}
    for name, tensor in learned.items():
        layer, _, kind = name.rpartition(".")
        there = layers.get(name) or (f"{layers[layer]}.{kind}" if layer in layers else _renamed(name, layers))
        there = there.removeprefix(".")  # of a projector that is one layer
        # those of further layers are numbered, see _published_tensors
        place = "" if layout.parts else f"{family.stacks if there[0].isdigit() else family.projector}."
        place = layout.beside[0] if name == NEWLINE else place
        found[place + there] = layout.restored[name](tensor) if name in layout.changed else tensor
    return found


def _published_tensors(path: str, family: Family, layout: Layout) -> dict[str, Tensor]:
    """Those of the projector by their names inside it, or from its parts' names on; beside it; numbered, of others."""
    if layout.parts:
        each = {part: read_tensors(path, (f"model.{part}", part)) for part in layout.parts}
        return {part + name: tensor for part, tensors in each.items() for name, tensor in tensors.items()}
    starts = (f"{family.projector}.", *layout.beside)
    found = read_tensors(path, (*(f"model.{start}" for start in starts), *starts))
    if family.stacks is not None:
        found |= read_tensors(path, (f"model.{family.stacks}.", f"{family.stacks}."))
    return found


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """The new name of a tensor whose beginning ``names`` has; else its own."""
    for old, new in names.items():
        if old.endswith(".") and name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _check(path: str, type: str, args: Mapping[str, Any], wanted: Words, family: Family, layout: Layout) -> None:
    """MmllmError where a connector computes something else; differing sizes show when tensors are copied."""
    if type not in (wanted["type"], *layout.also):
        settings = ", ".join(f"{word}: {_shown(value)}" for word, value in wanted.items() if word != "type")
        raise MmllmError(
            f"the projector of {path!r} ({family.name}) is what the connector {wanted['type']} computes ({settings}), "
            f"not {type}"
        )
    for word, default in {**DEFAULTS, **DEFAULTS_OF.get(type, {})}.items():
        given, right = args.get(word, default), wanted.get(word, default)
        if given != right:
            raise MmllmError(
                f"the projector of {path!r} ({family.name}) has {word}: {_shown(right)}, the connector {type} has "
                f"{_shown(given)}; write {word}: {_shown(right)}"
            )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
