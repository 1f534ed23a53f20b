"""Computes features ahead of a training (`mmllm cache`): encoders alone, no LLM; goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmllm.errors import MediaError, RecipeError
from mmllm.features.batching import is_known
from mmllm.features.encoder_cache import MOST, EncoderCache
from mmllm.model.build import build_encoders
from mmllm.model.feature_cache import FeatureCache, open_features
from mmllm.model.inputs import loaded
from mmllm.model.model import run_encoder
from mmllm.recipe.cache_checks import check_cache
from mmllm.recipe.messages import Problems
from mmllm.recipe.models import Recipe
from mmllm.recipe.stage_sections import Cache
from mmllm.training import feature_room
from mmllm.training.stage_data import datasets_of

READERS = 4
"""Threads that read media ahead of a GPU; on a CPU they would take its cores."""
LISTED = 20
"""Unreadable items that are named; the rest is counted."""

T = TypeVar("T")


def cache_ahead(recipe: Recipe, stages: Sequence[str] = (), *, verify: bool = False) -> int:
    """Compute and keep the features of every item of these stages' data (default: of those with `cache`).

    Says how much room they take first. What is there already is not computed again. Returns how many were computed.

    Raises:
        RecipeError: no such stage, none that has `cache`, or an encoder that another stage trains before.
        MmllmError: the disk cannot hold them; an encoder in which a connector works.
    """
    chosen = list(stages) or [name for name, stage in recipe.stages.items() if stage.cache is not None]
    for name in chosen:
        if name not in recipe.stages:
            raise RecipeError(
                f"--stage {name}: the recipe has no such stage; its stages are {', '.join(recipe.stages)}."
            )
    if not chosen:
        raise RecipeError(
            f"the recipe {recipe.name} keeps no features: write `cache: true` under a stage, or name one with --stage."
        )
    encoders = build_encoders(recipe)
    return sum(_of_stage(recipe, name, encoders, verify) for name in chosen)


def _of_stage(recipe: Recipe, name: str, encoders: Mapping[str, Any], verify: bool) -> int:
    console = Console(highlight=False, soft_wrap=True)
    settings = recipe.stages[name]
    cache = settings.cache or Cache()
    problems = Problems(recipe.name)  # of a stage that does not say `cache` nobody has asked yet
    check_cache(recipe, cache, settings.train, ("stages", name, "cache"), problems)
    problems.raise_any()
    kept = {key: encoders[key] for key in cache.encoders or encoders}
    _check_untrained(recipe, name, kept)
    opened = open_features(kept, None if cache.dir is None else Path(cache.dir), cache.dtype, verify=verify)
    datasets = datasets_of(recipe, settings)
    shown = {key: part.encoders for key, part in recipe.connectors.items() if part.encoders}
    media = feature_room.distinct(datasets, feature_room.minding(opened, shown))
    said = feature_room.check(f"stages.{name}.cache", opened.folder, feature_room.counted(opened, media, shown))
    console.print(said, markup=False)
    bad: list[str] = []
    try:
        for placeholder, names in shown.items():
            for key in names:
                if key in opened.encoders:
                    _compute(opened.encoders[key], media.get(placeholder, []), bad, console)
    finally:
        opened.commit()
    _report(opened, bad, console)
    return opened.n_computed


def _check_untrained(recipe: Recipe, name: str, encoders: Mapping[str, Any]) -> None:
    """RecipeError where a stage before this one trains an encoder: its features are those of the trained one."""
    for before in list(recipe.stages)[: list(recipe.stages).index(name)]:
        for part in recipe.stages[before].train:
            section, _, rest = part.partition(".")
            if section == "encoders" and rest.partition(".")[0] in encoders:
                raise RecipeError(
                    f"stages.{before}.train names {part}, so stage {name} sees other features than there are now; "
                    "they cannot be computed ahead."
                )


@torch.no_grad()
def _compute(cache: EncoderCache, media: Sequence[Any], bad: list[str], console: Console) -> None:
    """Features of all these items, so many at once as the encoder's device takes."""
    run = partial(run_encoder, cache.encoder)
    device = next((weight.device for weight in cache.encoder.parameters()), torch.device("cpu"))
    readers = READERS if device.type != "cpu" else 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(cache.name, total=len(media))
        waiting = []
        for item in _ahead(partial(_read, cache), media, readers):
            progress.advance(task)
            if isinstance(item, str):
                bad.append(item)
            elif not is_known(item):
                waiting.append(item)
            if len(waiting) == MOST:
                _run(cache, waiting, run, device)
                waiting = []
        if waiting:
            _run(cache, waiting, run, device)


def _run(cache: EncoderCache, items: Sequence[Any], run: Any, device: torch.device) -> None:
    cache.features({name: value.to(device) for name, value in cache.collate(items).items()}, run)


def _read(cache: EncoderCache, media: Any) -> Any:
    """An item as the cache reads it, or a sentence where it cannot be read."""
    try:
        return cache.read(cache.processor.told(loaded(media)))
    except MediaError as error:
        return str(error)


def _ahead(read: Any, media: Sequence[T], threads: int) -> Iterator[Any]:
    """``read`` of each, in order; with threads a few are read ahead."""
    if not threads:
        yield from map(read, media)
        return
    with ThreadPoolExecutor(threads) as pool:
        rest = iter(media)
        futures = [pool.submit(read, item) for item in islice(rest, 4 * threads)]
        while futures:
            yield futures.pop(0).result()
            futures += [pool.submit(read, item) for item in islice(rest, 1)]


def _report(cache: FeatureCache, bad: Sequence[str], console: Console) -> None:
    for sentence in bad[:LISTED]:
        console.print(f"skipped {sentence}", markup=False)
    if len(bad) > LISTED:
        console.print(f"skipped {len(bad) - LISTED} more that cannot be read")
    there = sum(len(one.store) for one in cache.encoders.values())
    console.print(f"{cache.n_computed:,} items computed, {there:,} are kept in {cache.folder}", markup=False)
