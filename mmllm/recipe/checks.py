"""Checks that go across a recipe's sections: parts against their classes, names against what they point to.

Runs after the models have accepted each section on its own; needs neither torch nor any part imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmllm import registry
from mmllm.recipe import part_arguments
from mmllm.recipe.cache_checks import check_cache
from mmllm.recipe.computed_checks import check_computed
from mmllm.recipe.distill_checks import check_distill
from mmllm.recipe.item_texts import StepText
from mmllm.recipe.messages import GROUPS, REGISTRY, Problems, unknown
from mmllm.recipe.models import ComponentSpec, Recipe, Stage, trains_llm
from mmllm.recipe.yaml_lines import Path

OURS = {
    "train_batch_size": "batch",
    "train_micro_batch_size_per_gpu": "micro_batch",
    "gradient_accumulation_steps": "batch and micro_batch",
    "gradient_clipping": "clip",
    "optimizer": "train, betas and weight_decay",
    "scheduler": "schedule and warmup",
    "bf16": "llm.dtype",
    "fp16": "llm.dtype",
    "steps_per_print": "log_every",
    "zero_optimization.stage": "zero",
    "zero_optimization.offload_optimizer": "offload",
    "zero_optimization.offload_param": "offload",
    "tensorboard": "monitor",
    "wandb": "monitor",
    "csv_monitor": "monitor",
    "comet": "monitor",
}
"""DeepSpeed keys (dotted where they are nested) that a recipe sets by its own words."""
MONITORS = ("tensorboard", "wandb", "csv", "comet")
"""Blocks of `monitor:`; each is a mapping of DeepSpeed's words for it, or true."""


def outside_parts(data: Mapping[str, Any]) -> list[str]:
    """Each "module:Class" of another package that a recipe's YAML names, in order; what is no part's name is left out.

    Of the YAML, not of the recipe: making that already imports classes to read their arguments.
    """
    named: list[tuple[str, Any]] = []
    for section in GROUPS:
        parts = data.get(section)
        for part in parts.values() if isinstance(parts, dict) else ():
            if isinstance(part, dict):
                named.append((REGISTRY[section], part.get("type")))
                inner = [value.get("type") for value in part.values() if isinstance(value, dict)]
                named += [("encoders", type) for type in inner]
    evaluation = data.get("eval")
    benchmarks = evaluation.get("benchmarks") if isinstance(evaluation, dict) else None
    if isinstance(benchmarks, dict):
        entries = ((name, args if isinstance(args, dict) else {}) for name, args in benchmarks.items())
        named += [("benchmarks", args.get("type", name)) for name, args in entries]
    elif isinstance(benchmarks, list):
        named += [("benchmarks", name) for name in benchmarks]
    found = []
    for group, type in named:
        try:
            where = registry.locate(group, type) if isinstance(type, str) else registry.OWN
        except registry.UnknownName:
            continue  # noted with the arguments
        if where.partition(".")[0] != registry.OWN:
            found.append(where)
    return list(dict.fromkeys(found))


def check(recipe: Recipe, problems: Problems, stages: bool = True) -> None:
    """Note every problem that lies between sections; ``stages``: whether the recipe must have some."""
    for section in GROUPS:
        parts: dict[str, ComponentSpec] = getattr(recipe, section)
        for key, part in parts.items():
            _arguments((section, key), REGISTRY[section], part.type, part.args, problems)
    for name, (type, args) in recipe.eval.parts.items():
        _arguments(("eval", "benchmarks", name), "benchmarks", type, args, problems)
    if recipe.start is not None and recipe.start.by is not None:
        problems.add(("start",), f"found {recipe.start.by}, which is computed for one connector; write it there")
    _wiring(recipe, problems)
    if stages and not recipe.stages:
        problems.add(("stages",), "missing; a recipe trains in at least one stage")
    for section, cache in (("eval", recipe.eval.cache), ("serve", recipe.serve.cache)):
        if cache is not None:
            check_cache(recipe, cache, {}, (section, "cache"), problems)
    for key, stage in recipe.stages.items():
        _stage(recipe, ("stages", key), stage, problems)


def _arguments(path: Path, group: str, type: str, args: dict[str, Any], problems: Problems) -> None:
    """A part's type exists and its arguments fit the class's signature."""
    at = path if group == "benchmarks" else (*path, "type")
    try:
        if group == "connectors":
            part_arguments.kinds(type)  # where it works must be known
        found = part_arguments.problems(group, type, args)
    except registry.UnknownName as error:
        problems.add(at, str(error))
        return
    for name, sentence in found:
        problems.add((*path, name) if name else path, sentence)
    for name in part_arguments.inner_encoders(group, type):
        inner = args.get(name)
        if isinstance(inner, dict) and "type" in inner:
            # an encoder inside an encoder: its own arguments are checked like any other's
            rest = {key: value for key, value in inner.items() if key != "type"}
            _arguments((*path, name), "encoders", str(inner["type"]), rest, problems)
        elif isinstance(inner, dict):
            problems.add((*path, name), f'"type" is missing; known: {", ".join(sorted(registry.table("encoders")))}')


def _wiring(recipe: Recipe, problems: Problems) -> None:
    """``from`` and ``adapts`` name encoders, ``when`` placeholders; every encoder's features go somewhere."""
    placeholders = [key for key, part in recipe.connectors.items() if part.encoders]
    readers: dict[str, list[str]] = {key: [] for key in recipe.encoders}
    for key, part in recipe.connectors.items():
        path: Path = ("connectors", key)
        for name in dict.fromkeys(part.encoders):
            # of an encoder that does not exist nothing is noted here, but below
            readers.get(name, []).append(key)
        for word, names, kind, known in (
            ("from", part.encoders, "encoder", list(recipe.encoders)),
            ("when", part.when, "placeholder", placeholders),
            ("adapts", part.adapts, "encoder", list(recipe.encoders)),
        ):
            for name in names or ():
                if name not in known:
                    entry = next((key for key, one in recipe.connectors.items() if name in one.encoders), None)
                    hint = f"; what the encoder {name} reads fills <{entry}>, its connector's key" if entry else ""
                    problems.add(
                        (*path, word), f'found "{name}"; {unknown(kind, name, known)}{hint if word == "when" else ""}'
                    )
        _several(path, part, recipe, problems)
        _direction(path, part, recipe.encoders, problems)
        _times(path, part, problems)
        _shares(key, part, recipe, problems)
        check_computed(key, part, recipe, problems)
    for text in recipe.llm.new_tokens:
        if text[:1] + text[-1:] == "<>" and text[1:-1] in placeholders:
            problems.add(("llm", "tokens"), f'found "{text}", which is the placeholder of connectors.{text[1:-1]}')
    for encoder, found in readers.items():
        if len(found) > 1:
            problems.add(
                ("connectors", found[1], "from"),
                f'found "{encoder}", which already enters through connectors.{found[0]}; '
                f"one connector fills the places of <{found[0]}>",
            )
        elif not found:
            problems.add(
                ("encoders", encoder), f"no connector has `from: {encoder}`, so its features go nowhere; add one"
            )


def _several(path: Path, part: ComponentSpec, recipe: Recipe, problems: Problems) -> None:
    """A list of encoders names each once, and the connector takes as many."""
    twice = sorted({name for name in part.encoders if part.encoders.count(name) > 1})
    if twice:
        problems.add((*path, "from"), f'found "{twice[0]}" twice; name each encoder once')
    if part.source == ():
        problems.add((*path, "from"), "found an empty list; name at least one encoder")
    if len(part.encoders) < 2:
        return
    try:
        several = part_arguments.takes_several(part.type)
    except registry.UnknownName:
        return  # already noted with the arguments
    if not several:
        problems.add(
            (*path, "from"),
            f"found {len(part.encoders)} encoders, but {part.type} takes the features of one; name one, or put a "
            "connector that takes several (concat) there",
        )


def _direction(path: Path, part: ComponentSpec, encoders: Iterable[str], problems: Problems) -> None:
    """A connector that takes features says from where; one inside the LLM does not."""
    try:
        takes_features = part_arguments.takes_features(part.type)
        inside = part_arguments.works_inside(part.type)
        adapts = part_arguments.adapts_encoders(part.type)
    except registry.UnknownName:
        return  # already noted with the arguments
    where = "encoders" if adapts and not inside else "the LLM"
    if adapts and not takes_features and not part.adapts:
        known = ", ".join(encoders) or "none"
        problems.add(
            path, f'"adapts" is missing; {part.type} works inside encoders, name them; known encoders: {known}'
        )
    if part.adapts is not None and not adapts:
        problems.add((*path, "adapts"), f"{part.type} does not work inside encoders; remove it")
    if part.when is not None and adapts and not inside and not takes_features:
        problems.add((*path, "when"), "a connector inside encoders works on all they read; leave it out")
    if takes_features and part.when is not None and not inside:
        problems.add((*path, "when"), "a connector with `from` works where its own items are; leave it out")
    if takes_features and part.source is None:
        known = ", ".join(encoders) or "none"
        problems.add(path, f'"from" is missing; {part.type} takes features; known encoders: {known}')
    if takes_features is False and part.source is not None:
        problems.add((*path, "from"), f"{part.type} works inside {where} and takes no encoder's features; remove it")


def _times(path: Path, part: ComponentSpec, problems: Problems) -> None:
    """`times` is a text with {s} and {n}; it, `token` and `around` stand on a connector that gives tokens."""
    for word in ("token", "around", "tiles", "steps", "stitch", "rows", "attends"):
        if getattr(part, word) is not None and part.source is None:
            problems.add((*path, word), "a connector without `from` has no places in the text; remove it")
    between = [word for word in ("rows", "tiles", "steps", "times") if getattr(part, word) is not None]
    if len(between) > 1:
        problems.add(
            (*path, between[0]), f"text stands at `{between[0]}` or at `{between[1]}`, not at both; remove one"
        )
    _steps((*path, "steps"), part, problems)
    for word, text in () if part.tiles is None else part.tiles:
        try:
            text.format(row=1, col=1, n=1)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            problems.add(
                (*path, "tiles", word),
                f'found "{text}", which cannot be filled in ({error}); known: {{row}}, {{col}} and {{n}} (numbers)',
            )
    if part.times is None:
        return
    if part.source is None:
        problems.add(
            (*path, "times"), "a connector without `from` gives no tokens that times could stand before; remove it"
        )
    try:
        part.times.format(n=1, s=0.5)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        problems.add(
            (*path, "times"),
            f'found "{part.times}", which cannot be filled in ({error}); known: {{s}} (seconds) and {{n}} (number)',
        )


def _steps(path: Path, part: ComponentSpec, problems: Problems) -> None:
    """The texts at steps in time can be filled in."""
    known = {
        "begin": "{steps}, {words} and {duration}",
        "step": "{s} (seconds), {n}, {minutes} and {seconds} (numbers)",
    }
    for word, names in known.items() if part.steps is not None else ():
        text = getattr(part.steps, word)
        try:
            StepText(**{word: text}).filled([0.5])
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            problems.add((*path, word), f'found "{text}", which cannot be filled in ({error}); known: {names}')


def _shares(key: str, part: ComponentSpec, recipe: Recipe, problems: Problems) -> None:
    """`shares` names a connector in front of it that has `from` and weights of its own; so does the connector."""
    if part.shares is None:
        return
    path: Path = ("connectors", key, "shares")
    earlier = list(recipe.connectors)[: list(recipe.connectors).index(key)]
    if part.shares not in recipe.connectors:
        problems.add(path, f'found "{part.shares}"; {unknown("connector", part.shares, recipe.connectors)}')
    elif part.shares not in earlier:
        problems.add(
            path, f'found "{part.shares}", which stands behind it; put it in front, as its weights are made first'
        )
    elif recipe.connectors[part.shares].shares is not None:
        other = recipe.connectors[part.shares].shares
        problems.add(path, f'found "{part.shares}", which has the weights of {other} itself; name {other}')
    elif None in (part.source, recipe.connectors[part.shares].source):
        problems.add(path, "weights are shared between connectors with `from`; remove it")
    if part.start is not None:
        problems.add(("connectors", key, "start"), f"its weights are those of connectors.{part.shares}; start that one")


def _stage(recipe: Recipe, path: Path, stage: Stage, problems: Problems) -> None:
    """Check that what a stage trains and reads exists and its DeepSpeed block repeats none of the recipe's words."""
    tokens = ["llm.tokens"] if recipe.llm.tokens else []
    known = [
        "llm",
        *tokens,
        *(f"{section}.{key}" for section in ("encoders", "connectors") for key in getattr(recipe, section)),
    ]
    for name in stage.train:
        # `connectors.image.gates`: what a connector has inside is known once it is made
        if not any(_is_in(name, part) for part in known):
            problems.add((*path, "train", name), unknown("part", name, known))
        if not tokens and f"{name}.".startswith("llm.tokens."):
            problems.add((*path, "train", name), "no new tokens are there to learn; list them: llm: {tokens: [...]}")
        if recipe.llm.quantize is not None and trains_llm(name):
            problems.add(
                (*path, "train", name), "a quantised LLM cannot learn; leave llm.quantize out, or train a connector"
            )
        owner = next((one.shares for key, one in recipe.connectors.items() if _is_in(name, f"connectors.{key}")), None)
        if owner is not None:
            problems.add((*path, "train", name), f"its weights are those of connectors.{owner}; name that one")
        # new tokens are no part of what `llm` lets learn
        own = "llm" if f"{name}.".startswith("llm.tokens.") else ""
        whole = [part for part in stage.train if name.startswith(f"{part}.") and part != own]
        if whole:
            problems.add((*path, "train", name), f"is inside {whole[0]}, which learns as a whole; keep one of the two")
    for name in stage.data:
        if name not in recipe.data:
            problems.add((*path, "data", name), unknown("data entry", name, recipe.data))
    if recipe.llm.quantize is not None and stage.zero == 3:
        problems.add((*path, "zero"), "found 3, which cannot split the weights of llm.quantize; use 2 or less")
    if recipe.llm.attention == "prefix" and stage.share_prefix is not None:
        problems.add(
            (*path, "share_prefix"),
            "with llm.attention prefix what conversations share sees what each goes on with, so it differs from one to "
            "the other; leave it out",
        )
    for name in stage.monitor:
        if name not in MONITORS:
            problems.add((*path, "monitor", name), unknown("monitor", name, MONITORS))
    if stage.cache is not None:
        check_cache(recipe, stage.cache, stage.train, (*path, "cache"), problems)
    check_distill(recipe, stage, path, problems)
    _deepspeed(stage.deepspeed, (*path, "deepspeed"), "", problems)


def _is_in(name: str, part: str) -> bool:
    """Whether a name under ``train`` is a part, or lies in it."""
    return f"{name}.".startswith(f"{part}.")


def _deepspeed(block: dict[str, Any], path: Path, above: str, problems: Problems) -> None:
    """The passed-through block says nothing that the recipe has its own word for."""
    for key, value in block.items():
        if above + key in OURS:
            problems.add((*path, key), f"set by the recipe's {OURS[above + key]}; remove it here")
        elif isinstance(value, dict):
            _deepspeed(value, (*path, key), f"{above}{key}.", problems)
