"""Recipe -> MultimodalLM: loads the frozen parts, makes the connectors from the recipe's seed, attaches them."""

from __future__ import annotations

from typing import Any

import torch

from mmllm import registry
from mmllm.connectors.base import Connector
from mmllm.encoders.base import Encoder
from mmllm.errors import RecipeError
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.model import MultimodalLM, seed_for
from mmllm.recipe import part_arguments
from mmllm.recipe.models import Recipe


def build(recipe: Recipe, device: torch.device | str | None = None) -> MultimodalLM:
    """The assembly of ``recipe`` in eval mode, nothing trainable yet, on ``device`` (default: a GPU if there is one).

    Frozen parts are in the recipe's dtype, connectors in float32. The same recipe gives the same connectors: each is
    drawn from the seed and its key, so adding one does not change another.

    Raises:
        MmllmError: a part cannot be loaded or refuses its arguments.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    llm = CausalLM.load(recipe.llm.path, recipe.llm.dtype, recipe.llm.context)
    encoders = {key: _encoder(recipe, key).to(llm.dtype) for key in recipe.encoders}
    sources = {part.source: key for key, part in recipe.connectors.items() if part.source is not None}
    with torch.random.fork_rng(devices=[]):
        connectors = {key: _connector(recipe, key, encoders, llm) for key in recipe.connectors}
        assembly = MultimodalLM(llm, encoders, connectors, sources, recipe)
    assembly.requires_grad_(False)
    return assembly.to(device).eval()


def _encoder(recipe: Recipe, key: str) -> Encoder:
    part = recipe.encoders[key]
    return _made(f"encoders.{key}", registry.load("encoders", part.type), part.args)


def _connector(recipe: Recipe, key: str, encoders: dict[str, Encoder], llm: CausalLM) -> Connector:
    part = recipe.connectors[key]
    widths = {"llm_dim": llm.dim}
    if part.source is not None:
        encoder = encoders[part.source]
        widths["dim"] = encoder.dim * len(encoder.layers)
    seed_for(recipe.seed, key)
    made: Connector = _made(f"connectors.{key}", registry.load("connectors", part.type), {**widths, **part.args})
    made.when, made.times = part.when, part.times
    adapts = part.source is not None and part_arguments.adapts_encoders(part.type)
    made.inside = part.inside or ((part.source,) if adapts and part.source is not None else ())
    return made


def _made(where: str, kind: Any, arguments: dict[str, Any]) -> Any:
    try:
        return kind(**arguments)
    except TypeError as error:
        raise RecipeError(f"{where}: {kind.__name__} cannot be made from {arguments} ({error})") from error
