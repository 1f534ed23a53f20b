"""Weights that several parts hold once: ``connectors.KEY: {shares: OTHER}``, and frozen towers that are the same.

LLaVA's video models bring pictures and frames to the LLM through one tower and one projector. The model calls it before
anything is attached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmllm.connectors.base import Connector, LLMAdapter
from mmllm.encoders.base import Encoder
from mmllm.encoders.image.several import PicturesEncoder
from mmllm.errors import RecipeError
from mmllm.recipe.models import Recipe

STITCH = "stitch."
"""Beginning of the names of what stands between a picture's tiles, which a connector of whole items does without."""


def share(connector: Connector, owner: Connector, where: str, whose: str) -> None:
    """Let ``connector`` hold the very tensors of ``owner``; ``where``, ``whose``: their places in the recipe.

    ``connector`` may lack those of the owner's ``stitch``.

    Raises:
        RecipeError: their tensors differ in name or shape, or one of them makes some inside the LLM.
    """
    start = f"{where}: it shares the weights of {whose}, but "
    for key, one in ((where, connector), (whose, owner)):
        if isinstance(one, LLMAdapter) and not one.whole_before_attached:
            raise RecipeError(f"{start}{key} works inside the LLM, where each has its own; leave `shares` out.")
    own, given = connector.state_dict(keep_vars=True), owner.state_dict(keep_vars=True)
    given = {name: tensor for name, tensor in given.items() if name in own or not name.startswith(STITCH)}
    lacking = sorted(own.keys() ^ given.keys())
    if lacking:
        has, has_not = (where, whose) if lacking[0] in own else (whose, where)
        raise RecipeError(f"{start}{has} has {lacking[0]}, and {has_not} has not; give them settings alike.")
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise RecipeError(
                f"{start}its {name} is {list(own[name].shape)} and that one's {list(tensor.shape)}; encoders, layers "
                "and settings must be as wide."
            )
        _put(connector, name, tensor)


def check_shared(connector: Connector, owner: Connector, where: str, whose: str) -> None:
    """RecipeError where a connector has made weights of its own since, when it was attached to the LLM."""
    given = {id(tensor) for tensor in owner.state_dict(keep_vars=True).values()}
    for name, tensor in connector.state_dict(keep_vars=True).items():
        if id(tensor) not in given:
            raise RecipeError(
                f"{where}: it shares the weights of {whose}, but its {name} is made for this LLM inside it; leave "
                "`shares` out."
            )


def share_frozen(encoders: Mapping[str, Encoder], recipe: Recipe) -> None:
    """Let encoders of one model hold its weights once: a tower that sees pictures and frames of clips.

    Those that a stage trains go ways of their own.
    """
    named = [name.split(".") for stage in recipe.stages.values() for name in stage.train]
    learning = {parts[1] for parts in named if parts[0] == "encoders"}
    seen: dict[tuple[Any, ...], nn.Module] = {}
    for key, encoder in encoders.items():
        arguments = recipe.encoders[key].args
        inner = arguments.get("image", arguments)
        if key in learning or "model" not in inner:
            continue
        tower = encoder.image if isinstance(encoder, PicturesEncoder) else encoder
        first = seen.setdefault(tuple(inner.get(word) for word in ("model", "pretrained", "tower")), tower)
        if first is not tower and _alike(first, tower):
            for name, tensor in first.state_dict(keep_vars=True).items():
                _put(tower, name, tensor)


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules hold the same tensors under the same names; where they hold none yet, of the same shapes."""
    first, second = one.state_dict(), other.state_dict()
    if first.keys() != second.keys():
        return False
    pairs = [(tensor, second[name]) for name, tensor in first.items()]
    if any(a.shape != b.shape or a.dtype != b.dtype for a, b in pairs):
        return False
    return all(a.is_meta or torch.equal(a, b) for a, b in pairs)


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Make this very tensor the module's under that name."""
    parent, _, leaf = name.rpartition(".")
    inner = module.get_submodule(parent)
    # assigned in the module's own table, whichever it is in: parameters and buffers alike
    table: dict[str, Any] = inner._parameters if leaf in inner._parameters else inner._buffers
    table[leaf] = tensor
