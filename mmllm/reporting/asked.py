"""The questions behind kept answers, opened again by what ``results.json`` or the recipe says of their benchmark."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmllm.errors import MmllmError

if TYPE_CHECKING:
    from mmllm.evaluation.benchmarks.base import Benchmark, Question


@dataclass(frozen=True)
class Asked:
    """A benchmark, and some of its questions by name."""

    benchmark: Benchmark
    questions: Mapping[str, Question]


def asked(entries: Mapping[str, Mapping[str, Any]], names: Mapping[str, Collection[str]]) -> dict[str, Asked]:
    """Benchmark -> its questions of these ``names``; of benchmarks that can be opened here, and none of the others."""
    from mmllm.evaluation.run import opened

    found = {}
    for name, entry in entries.items():
        wanted = set(names.get(name, ()))
        if not wanted:
            continue
        try:
            (benchmark,) = opened({name: entry})
            every = (benchmark[index] for index in range(len(benchmark)))
            questions = {one.sample.name: one for one in every if one.sample.name in wanted}
        except MmllmError:  # its files are elsewhere: answers are then shown without media
            continue
        found[benchmark.name] = Asked(benchmark, questions)
    return found
