"""Recipe -> MultimodalLM: loads the frozen parts, makes the connectors from the recipe's seed, attaches them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mmllm import registry
from mmllm.connectors.base import Connector, EncoderAdapter, LLMAdapter, Projector
from mmllm.connectors.stitching import Stitch
from mmllm.encoders.base import Encoder
from mmllm.errors import MmllmError, RecipeError
from mmllm.llms.causal_lm import CausalLM
from mmllm.llms.load import resolve_dtype
from mmllm.model.item_text import ItemText
from mmllm.model.model import MultimodalLM, seed_for
from mmllm.model.shared_weights import share_frozen
from mmllm.recipe.models import ComponentSpec, Recipe, trains_llm


def build(
    recipe: Recipe,
    device: torch.device | str | None = None,
    partition: Mapping[str, Any] | None = None,
    *,
    llm: CausalLM | None = None,
    encoders: Mapping[str, Encoder] | None = None,
) -> MultimodalLM:
    """The model of ``recipe`` in eval mode, nothing trainable yet, on ``device`` (default: a GPU if there is one).

    Frozen parts are in the recipe's dtype, connectors in float32. The same recipe gives the same connectors: each is
    drawn from the seed and its key, so adding one does not change another. ``partition``: DeepSpeed's configuration of
    a training with ZeRO-3, under which no rank holds the whole LLM. ``llm``, ``encoders``: frozen parts of the recipe
    that are loaded already, the encoders by their keys; they are used as they are.

    Raises:
        MmllmError: a part cannot be loaded or refuses its arguments.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise MmllmError(f"device {str(device)!r}: torch finds no GPU here; leave it out, or give 'cpu'.")
    llm = llm or build_llm(recipe, device, partition)
    encoders = {key: (encoders or {}).get(key) or _encoder(recipe, key).to(llm.dtype) for key in recipe.encoders}
    share_frozen(encoders, recipe)
    inputs = {key: part.encoders for key, part in recipe.connectors.items() if part.encoders}
    # the caller's random numbers go on as if nothing had been drawn; no devices, as weights are drawn on the CPU
    with torch.random.fork_rng(devices=[]):
        connectors = {key: build_connector(recipe, key, encoders, llm.dim) for key in recipe.connectors}
        model = MultimodalLM(
            llm,
            encoders,
            connectors,
            inputs,
            recipe,
            adapts={key: adapted(part, connectors[key]) for key, part in recipe.connectors.items()},
            texts={key: ItemText.of(part) for key, part in recipe.connectors.items()},
            shares={key: part.shares for key, part in recipe.connectors.items() if part.shares is not None},
        )
    model.requires_grad_(False)
    return model.to(device).eval()


def build_llm(recipe: Recipe, device: torch.device | str, partition: Mapping[str, Any] | None = None) -> CausalLM:
    """The LLM of ``recipe`` with its new tokens."""
    llm = CausalLM.load(
        recipe.llm.path,
        recipe.llm.dtype,
        recipe.llm.context,
        file=recipe.llm.file,
        template=recipe.llm.template,
        partition=partition if _may_partition(recipe) else None,
        quantize=recipe.llm.quantize,
        device=device,
        prefix=recipe.llm.attention == "prefix",
    )
    llm.add_tokens(recipe.llm.new_tokens, recipe.seed)
    return llm


def _may_partition(recipe: Recipe) -> bool:
    """Whether the LLM may be in parts while the model is built: nothing in it learns, no connector looks into it."""
    if any(trains_llm(name) for stage in recipe.stages.values() for name in stage.train):
        return False
    kinds = [registry.load("connectors", part.type) for part in recipe.connectors.values()]
    return all(kind.attaches_to_parts for kind in kinds if issubclass(kind, LLMAdapter))


def build_encoders(
    recipe: Recipe, device: torch.device | str | None = None, keys: Iterable[str] | None = None
) -> dict[str, Encoder]:
    """The frozen encoders of ``recipe`` alone, or of those the ``keys``, as :func:`build` makes them."""
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = resolve_dtype(recipe.llm.dtype)
    chosen = recipe.encoders if keys is None else keys
    return {key: _encoder(recipe, key).to(dtype).to(place).eval() for key in chosen}


def _encoder(recipe: Recipe, key: str) -> Encoder:
    part = recipe.encoders[key]
    return _made(f"encoders.{key}", registry.load("encoders", part.type), part.args)


def build_connector(recipe: Recipe, key: str, encoders: Mapping[str, Encoder], llm_dim: int) -> Connector:
    """A connector of ``recipe``, drawn from its seed and its key, for an LLM of this width; seeds torch."""
    part = recipe.connectors[key]
    widths: dict[str, Any] = {"llm_dim": llm_dim}
    if part.encoders:
        widths |= part_widths(part, [encoders[name].dim * len(encoders[name].layers) for name in part.encoders])
    seed_for(recipe.seed, key)
    made: Connector = _made(f"connectors.{key}", registry.load("connectors", part.type), {**widths, **part.args})
    stitched(key, part, made)
    return made.bind(key, part.when)


def part_widths(part: ComponentSpec, dims: list[int]) -> dict[str, Any]:
    """What a connector is told of the widths of its encoders: together, and where it asks for them each."""
    each = {"dims": tuple(dims)} if "dims" in registry.parameters("connectors", part.type) else {}
    return {"dim": sum(dims), **each}


def stitched(key: str, part: ComponentSpec, made: Connector) -> None:
    """Give a connector what puts its tokens together, where the recipe says so; RecipeError where it has none."""
    if part.stitch is None:
        return
    if not isinstance(made, Projector):
        raise RecipeError(f"connectors.{key}: `stitch` is for tokens of tiles, and a {part.type} is no projector")
    made.stitch = Stitch(llm_dim=made.llm_dim, **dict(part.stitch))


def adapted(part: ComponentSpec, connector: Connector) -> tuple[str, ...]:
    """Keys of the encoders in whose blocks a connector works: those the recipe names, or the one it reads."""
    if not isinstance(connector, EncoderAdapter):
        return ()
    return part.adapts or part.encoders


def _made(where: str, kind: Any, arguments: dict[str, Any]) -> Any:
    try:
        return kind(**arguments)
    except TypeError as error:
        raise RecipeError(f"{where}: {kind.__name__} cannot be made from {arguments} ({error})") from error
