"""What `mmllm inspect` has to say about a recipe's data; ``terminal.py`` prints it, ``page.py`` writes it as HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from mmllm import registry
from mmllm.datasets.base import Dataset
from mmllm.datasets.opening import open_dataset
from mmllm.errors import MmllmError
from mmllm.inspection.inputs import Reading, reading_of
from mmllm.inspection.rows import ShownRow, chosen, shown_row
from mmllm.inspection.survey import Survey, survey
from mmllm.recipe.models import ComponentSpec, Recipe

Progress = Callable[[str, Iterable[int]], Iterable[int]]
"""(data key, row numbers) -> the same numbers, while it shows how far they are."""


@dataclass(frozen=True)
class Entry:
    """One entry of the recipe's ``data``."""

    key: str
    source: str
    """Its type and what its arguments say, as in the recipe."""
    summary: str
    """What was found: ``3,120 rows, LLaVA conversations (JSON lines)``."""
    stages: tuple[str, ...]
    """Stages that draw from it."""
    rows: tuple[ShownRow, ...]
    survey: Survey


@dataclass(frozen=True)
class Report:
    """What a model will see of its data."""

    name: str
    llm: str
    context: int
    encoders: tuple[str, ...]
    """Encoders behind the placeholders, each with its type and model."""
    notes: tuple[str, ...]
    """Sentences on what was not looked at and why."""
    entries: tuple[Entry, ...]


def inspect(
    recipe: Recipe,
    data: str | None = None,
    first: int = 3,
    numbers: Sequence[int] = (),
    progress: Progress = lambda _, rows: rows,
) -> Report:
    """Look at the data of a recipe: some rows closely, all of them (or the first 10,000) by their numbers.

    Args:
        recipe: the recipe.
        data: only this entry of its ``data``.
        first: rows shown of each entry.
        numbers: rows shown instead, counted from 1.
        progress: wraps the numbers of an entry's rows.

    Raises:
        MmllmError: there is no such entry or row, nothing at its path, or no tokenizer.
    """
    parts = _entries(recipe, data)
    datasets = {key: open_dataset(recipe, key) for key in parts}
    picked = {key: chosen(dataset, first, list(numbers)) for key, dataset in datasets.items()}
    # after the data: what is missing there is told before anything is loaded
    reading = reading_of(recipe)
    entries = tuple(
        _entry(
            recipe, key, dataset, tuple(shown_row(dataset, index, reading) for index in picked[key]), reading, progress
        )
        for key, dataset in datasets.items()
    )
    return Report(recipe.name, recipe.llm.path, recipe.llm.context, _encoders(recipe, reading), reading.notes, entries)


def _entry(
    recipe: Recipe, key: str, dataset: Dataset, rows: tuple[ShownRow, ...], reading: Reading, progress: Progress
) -> Entry:
    looked = survey(dataset, reading, partial(progress, key))
    stages = tuple(name for name, stage in recipe.stages.items() if key in stage.data)
    summary = dataset.summary or f"{len(dataset):,} samples"
    return Entry(key, _source(recipe.data[key]), summary, stages, rows, looked)


def _entries(recipe: Recipe, data: str | None) -> dict[str, ComponentSpec]:
    if not recipe.data:
        raise MmllmError(f"the recipe {recipe.name} has no data, so there is nothing to inspect")
    if data is None:
        return dict(recipe.data)
    if data not in recipe.data:
        near = registry.nearest(data, recipe.data)
        hint = f'; did you mean "{near}"?' if near else ""
        raise MmllmError(f'the recipe has no data "{data}"; its data: {", ".join(recipe.data)}{hint}')
    return {data: recipe.data[data]}


def _source(part: ComponentSpec) -> str:
    said = ", ".join(f"{name}: {value}" for name, value in part.args.items())
    return f"{part.type}, {said}" if said else part.type


def _encoders(recipe: Recipe, reading: Reading) -> tuple[str, ...]:
    found = []
    for key in reading.inputs:
        for name in recipe.connectors[key].encoders:
            part = recipe.encoders[name]
            model = part.args.get("model", part.args.get("image", ""))
            inner = model.get("model", model.get("type", "")) if isinstance(model, dict) else model
            found.append(f"<{key}>: encoders.{name}, {part.type} {inner}".rstrip())
    return tuple(found)
