"""The table of connectors: kind, paper, and how many tokens and parameters each has in its miniature recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from mmllm import registry
from mmllm.recipe import part_arguments
from mmllm.recipe.files import folder
from mmllm.recipe.load import load_recipe
from mmllm.recipe.models import Recipe

if TYPE_CHECKING:
    from mmllm.encoders.base import Encoder
    from mmllm.llms.causal_lm import CausalLM

KINDS = {
    "Projector": "projector",
    "DeepFusion": "deep fusion",
    "LLMAdapter": "LLM adapter",
    "EncoderAdapter": "encoder adapter",
}
HEADS = ("connector", "kind", "paper (arXiv)", "miniature recipe", "tokens of an item", "parameters")


def table() -> str:
    """A line per connector of the registry, and the sizes that its numbers are of."""
    rows = [(*facts(name), *_measured(name)) for name in registry.table("connectors")]
    llm = _llm(next(iter(recipes())).llm.path)
    return f"{_markdown(rows)}\n\nThe miniature LLM has {llm.n_blocks} blocks of width {llm.dim}."


def facts(name: str) -> tuple[str, str, str, str]:
    """Name, kind, papers and miniature recipe; no weights are made for them."""
    from benchmarks.connectors import papers

    kinds = " and ".join(KINDS[kind] for kind in part_arguments.KINDS if kind in part_arguments.kinds(name))
    module = registry.locate("connectors", name).partition(":")[0]
    recipe = recipe_of(name)
    return f"`{name}`", kinds, ", ".join(papers(module)) or "-", "-" if recipe is None else f"`mini/{recipe.name}`"


@cache
def recipes() -> tuple[Recipe, ...]:
    """All miniature recipes."""
    return tuple(load_recipe(path) for path in sorted((folder() / "mini").glob("*.yaml")))


def recipe_of(name: str) -> Recipe | None:
    """The miniature recipe named after a connector, or else the demo or the first that has one of its type."""
    using = [one for one in recipes() if any(part.type == name for part in one.connectors.values())]
    return min(using, key=lambda one: (one.name != name, one.name != "demo", one.name), default=None)


def _measured(name: str) -> tuple[str, str]:
    """Tokens of an item and parameters of the connector alone, on the miniature parts."""
    from mmllm.model.build import adapted
    from mmllm.model.model import MultimodalLM

    recipe = recipe_of(name)
    if recipe is None:
        return "-", "-"
    key, part = next((key, part) for key, part in recipe.connectors.items() if part.type == name)
    encoders = {one: _encoder(json.dumps([spec.type, spec.args])) for one, spec in recipe.encoders.items()}
    llm = _llm(recipe.llm.path)
    widths = {"llm_dim": llm.dim}
    if part.encoders:
        widths["dim"] = sum(encoders[one].dim * len(encoders[one].layers) for one in part.encoders)
    made = registry.load("connectors", name)(**widths, **part.args)
    inputs = {key: part.encoders} if part.encoders else {}
    model = MultimodalLM(llm, encoders, {key: made}, inputs, recipe, adapts={key: adapted(part, made)})
    tokens = "none" if key not in model.inputs else model.inputs[key].n_tokens()
    count = sum(parameter.numel() for parameter in made.parameters())
    model.handles[key].remove()
    for encoder in encoders.values():
        encoder.adapters.clear()
    return "varies" if tokens is None else str(tokens), f"{count:,}"


@cache
def _llm(path: str) -> CausalLM:
    from mmllm.llms.causal_lm import CausalLM

    return CausalLM.load(path, "float32")


@cache
def _encoder(words: str) -> Encoder:
    kind, arguments = json.loads(words)
    made: Any = registry.load("encoders", kind)(**arguments)
    return made


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
