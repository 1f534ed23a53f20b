"""Which parts of a model change conversations without media, or are not shown to leave them alone, and by what rule."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmllm.certificates import code
from mmllm.certificates.attached import Attached, rule, unlike_bare
from mmllm.certificates.frozen import Difference, differing_modules, differing_weights
from mmllm.certificates.watching import Watch
from mmllm.certificates.words import differing_inputs
from mmllm.connectors.base import Connector
from mmllm.llms.causal_lm import CausalLM
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import TOKENS, learned_parts
from mmllm.recipe.models import Recipe

UNCHANGED, CHANGED, NOT_SHOWN = "unchanged", "changed", "not shown"
"""Verdicts on what happens to conversations without media."""
ROOMS = ("hooks", "llms", "model", "generation", "batches", "messages", "connectors.base", "types")
"""Of this project: what a text passes through."""


@dataclass(frozen=True)
class Change:
    """A part that changes conversations without media, or of which it is not shown that it does not."""

    part: str
    what: str
    why: str
    """The rule or word of the recipe under which it does; empty: nothing says that it may."""
    verdict: str = CHANGED


def verdict(changes: Sequence[Change]) -> str:
    """Of all changes together."""
    verdicts = {one.verdict for one in changes}
    return CHANGED if CHANGED in verdicts else NOT_SHOWN if verdicts else UNCHANGED


def parts_that_differ(
    recipe: Recipe, model: MultimodalLM, bare: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[Change]:
    """Whatever of weights, modules, code, tokenizer and settings is not as in the bare model; nothing is computed."""
    return [
        *with_words(recipe, differing_weights(model.llm.model, bare)),
        *with_words(recipe, _structure(model, bare)),
        *with_words(recipe, differing_inputs(model, bare, tokenizer)),
        *_of_recipe(recipe, model),
    ]


def hooks_that_change(model: MultimodalLM, hooks: Sequence[Attached], watch: Watch) -> Iterator[Change]:
    """One change for each connector whose hooks change texts, and for each such hook that is nobody's."""
    for one in hooks:
        found = verdict_of(one, watch)
        if one.owner is None and found != UNCHANGED:
            yield Change(f"llm: {one.place}", f"{_seen(one, watch)}: {one.function}", "", found)
    for key, connector in model.connectors.items():
        assert isinstance(connector, Connector)
        own = [one for one in hooks if one.owner == key]
        changing = [one for one in own if verdict_of(one, watch) != UNCHANGED]
        if changing:
            verdicts = {verdict_of(one, watch) for one in changing}
            first = changing[0]
            yield Change(
                f"connectors.{key}",
                f"{len(changing)} of its {len(own)} hooks, the first {first.place} ({first.function}): "
                f"{_seen(first, watch)}",
                f"{type(connector).__name__} works {rule(connector)}",
                CHANGED if CHANGED in verdicts else NOT_SHOWN,
            )


def verdict_of(hook: Attached, watch: Watch) -> str:
    """What a hook does with conversations without media."""
    if hook.owner is None and not hook.known:
        return CHANGED  # whatever it was seen to do: nobody answers for it
    seen = watch.changes.get(hook.place)
    if seen is not None:
        return NOT_SHOWN if seen.startswith("cannot be followed") else CHANGED
    return UNCHANGED if hook.place in watch.seen and not watch.failed else NOT_SHOWN


def _seen(hook: Attached, watch: Watch) -> str:
    if hook.owner is None and not hook.known:
        return "is a hook of no connector and of no part of this project"
    return watch.changes.get(hook.place) or watch.failed or "ran in no pass"


def with_words(recipe: Recipe, differences: Iterable[Difference]) -> list[Change]:
    """Differences with the word of the recipe that accounts for them."""
    return [Change(f"llm: {one.part}", one.what, _why(recipe, one)) for one in differences]


def _why(recipe: Recipe, one: Difference) -> str:
    if one.what.startswith("has other numbers"):
        return _trained(recipe)
    if recipe.llm.new_tokens and one.part.startswith("tokenizer"):
        return "llm.tokens"
    if recipe.llm.template is not None and one.part in ("template", "prompts"):
        return "llm.template"
    return ""


def _trained(recipe: Recipe) -> str:
    """Stages that train the LLM's own weights, empty where none does."""
    parts = {name: {one.split(".")[0] for one in stage.train if one != TOKENS} for name, stage in recipe.stages.items()}
    stages = [name for name, trained in parts.items() if "llm" in trained]
    return f"trained in stages.{', '.join(stages)}" if stages else ""


def _of_recipe(recipe: Recipe, model: MultimodalLM) -> Iterator[Change]:
    """What the recipe changes of every text in its own words."""
    if model.llm.tokens is not None:
        what = f"{model.llm.tokens.n} new tokens: texts that hold them are read otherwise, and each has a logit"
        yield Change(TOKENS, what, "llm.tokens")
    if model.llm.prefix:
        yield Change("llm", "prompts are read in both directions", "llm.attention: prefix")
    if recipe.llm.quantize is not None:
        what = "linear layers are rounded, in both models that are compared"
        yield Change("llm", what, f"llm.quantize: {recipe.llm.quantize}")
    if "llm" in learned_parts(model):
        yield Change("llm", "its own weights have learned", _trained(recipe))


def _structure(model: MultimodalLM, bare: nn.Module) -> Iterator[Difference]:
    """Modules, code and hooks that the bare model does not have."""
    llm = model.llm
    yield from differing_modules(llm.model, bare)
    kinds = {type(one) for one in (*llm.modules(), *llm._head[0].modules(), model)}
    own = [one for one in code.own_modules() if one.__name__.partition(".")[2].startswith(ROOMS)]
    named = [(module, one) for module in own for one in vars(module).values() if isinstance(one, type)]
    classes = [one for module, one in named if one.__module__ == module.__name__]
    files = [sys.modules[kind.__module__] for kind in kinds]
    for found in (
        unlike_bare(llm, bare),
        code.replaced([*kinds, *classes]),
        code.replaced_functions([*files, *own]),
        code.around_everything(),
        code.put_on(model),
    ):
        yield from (Difference(*one) for one in found)
    yield from _differing_head(llm)


def _differing_head(llm: CausalLM) -> Iterator[Difference]:
    """Where the head that gives logits is not made of the model's own modules and weights."""
    own = dict(llm.model.named_modules())
    for name, module in llm._head[0].named_modules():
        # the decoder echoes there, and beside new tokens a stand-in adds their logits
        if name == llm.decoder_name or name.startswith(f"{llm.decoder_name}.") or llm.tokens is not None:
            continue
        there = own.get(name)
        same = there is not None and type(there) is type(module) and "forward" not in vars(module)
        if not same or any(module._parameters.get(key) is not value for key, value in own[name]._parameters.items()):
            yield Difference(f"head.{name}", "is not the module of the LLM")
