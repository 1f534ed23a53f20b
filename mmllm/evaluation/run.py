"""Evaluation of a run: asks every benchmark's questions, with and without the picture, and writes ``results.json``."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm import __version__, registry
from mmllm.errors import MmllmError
from mmllm.evaluation import digests
from mmllm.evaluation.asking import item_of
from mmllm.evaluation.draw import draw
from mmllm.evaluation.predictions import Prediction, blinded, predict
from mmllm.evaluation.question_rules import best_rule, training_split
from mmllm.evaluation.shots import Shots, shots_of
from mmllm.evaluation.summary import answered_of, counts, kinds, score_of, summary
from mmllm.evaluation.usage import Usage
from mmllm.messages.system import with_system
from mmllm.recipe import part_arguments
from mmllm.recipe.models import SHOTS, benchmark_part

if TYPE_CHECKING:
    from rich.progress import Progress

    from mmllm.checkpoints.load import Trust
    from mmllm.evaluation.benchmarks.base import Benchmark, Question
    from mmllm.generation.generator import Generator
    from mmllm.recipe.models import Eval, Recipe

Benchmarks = Mapping[str, Mapping[str, Any]]
"""Registered name -> arguments of its class, as under ``eval: benchmarks:`` in a recipe."""


def evaluate(
    run: Path,
    benchmarks: Benchmarks | None = None,
    limit: int | None = None,
    blind: bool = False,
    out: Path | None = None,
    overrides: Sequence[str] = (),
    trust: Trust | None = None,
    sample: int | None = None,
) -> dict[str, Any]:
    """Score the newest checkpoint of a run folder; returns what is written to ``results.json``.

    ``benchmarks`` instead of the recipe's; ``limit``: only the first so many questions of each, written to a file of
    their own (``results.limit-50.json``); ``sample``: a seed that draws so many at random instead; ``blind``: also the
    same questions without the picture; ``out``: another folder for results and predictions than the run's; the rest as
    ``checkpoints.load.load_run`` has it. What was answered before by the same version, weights, prompt, decoding, files
    and media is kept.

    Raises MmllmError: no benchmark, unknown ones, missing files; CheckpointError: no usable checkpoint.
    """
    from mmllm.checkpoints.load import load_run
    from mmllm.generation.generator import Generator
    from mmllm.generation.memory import Sizes
    from mmllm.model.feature_cache import cache_as_said

    recipe, loaded = load_run(Path(run), overrides=overrides, trust=trust)
    cache = cache_as_said(loaded, recipe.eval.cache, verify=trust is not None and trust.verify)
    try:
        return evaluate_with(
            Generator(loaded, Sizes.of(recipe.serve)), recipe, Path(out or run), benchmarks, limit, blind, sample
        )
    finally:  # also where it stops half way
        if cache is not None:
            cache.commit()


def evaluate_with(
    generator: Generator,
    recipe: Recipe,
    out: Path,
    benchmarks: Benchmarks | None = None,
    limit: int | None = None,
    blind: bool = False,
    sample: int | None = None,
) -> dict[str, Any]:
    """Like ``evaluate``, with a model that is already loaded; ``out`` is the folder for results and predictions."""
    from rich.console import Console

    if limit is not None and limit < 1:
        raise MmllmError(f"--limit {limit} leaves no question; give at least 1.")
    if sample is not None and (limit is None or sample < 0):
        why = "it is 0 or more" if limit is not None else "say how many questions it draws: --limit N"
        raise MmllmError(f"--sample {sample} is the seed of a draw; {why}.")
    asked = recipe.eval.benchmarks if benchmarks is None else benchmarks
    chosen = opened(asked)
    # in their order: what a class calls itself may be no name of an entry
    parts = {one.name: benchmark_part(name, entry) for one, (name, entry) in zip(chosen, asked.items(), strict=True)}
    # before anything is asked, as the benchmarks themselves
    shots = {
        one.name: shots_of(one, *parts[one.name], entry[SHOTS])
        for one, entry in zip(chosen, asked.values(), strict=True)
        if entry.get(SHOTS)
    }
    systems = {one.name: entry.get("system") for one, entry in zip(chosen, asked.values(), strict=True)}
    # a part of the questions never replaces the score over all of them
    part = "" if limit is None else f".limit-{limit}" + ("" if sample is None else f".sample-{sample}")
    file, console = out / f"results{part}.json", Console()
    _check_writable(out)
    results = _begun(file, generator, recipe)
    with _progress(console) as progress:
        usage = Usage(generator, out, results["checkpoint"])
        draws = (limit, sample)
        session = _Session(
            generator, recipe.eval, out, results["checkpoint"], draws, parts, shots, systems, progress, usage
        )
        for benchmark in chosen:
            entry = session.entry(benchmark, blind or recipe.eval.blind)
            results["benchmarks"][benchmark.name] = _with_blind(entry, results["benchmarks"].get(benchmark.name))
            _write(file, results)  # after each, so that a later benchmark's error loses nothing
    _show(console, {benchmark.name: results["benchmarks"][benchmark.name] for benchmark in chosen}, file)
    usage.show(console)
    return results


def _check_writable(out: Path) -> None:
    """MmllmError where results cannot be written: said before anything is asked."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise MmllmError(
            f"results cannot be written into {out} ({error.strerror}); give --out a folder that you may write"
        ) from error


def _with_blind(entry: dict[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keep the blind score of an earlier evaluation of the same questions where this one was not asked for any."""
    if before is None or entry["blind"] is not None or any(before[word] != entry[word] for word in ("key", "n")):
        return entry
    return entry | {word: value for word, value in before.items() if word.startswith("blind")}


def opened(benchmarks: Benchmarks) -> list[Benchmark]:
    """All benchmarks, opened before anything is asked, so that a missing file is said at once."""
    if not benchmarks:
        known = ", ".join(registry.table("benchmarks"))
        raise MmllmError(f"No benchmark to evaluate: name some under eval.benchmarks or --benchmarks; known: {known}.")
    found = []
    for name, entry in benchmarks.items():
        type, arguments = benchmark_part(name, entry)
        try:
            part = registry.load("benchmarks", type)(**arguments)
        except registry.UnknownName as error:
            raise MmllmError(str(error)) from error
        except TypeError as error:
            known = ", ".join(registry.parameters("benchmarks", type))
            # the sentences of a recipe's check, which stands before this on the command line but not in Python
            problems = part_arguments.problems("benchmarks", type, arguments)
            wrong = [f"{argument}: {sentence}" if argument else sentence for argument, sentence in problems]
            why = "; ".join(wrong) or f"{error}; its arguments are {known}"
            raise MmllmError(f"eval.benchmarks.{name}: {why}.") from error
        if type != name:
            vars(part)["name"] = name  # the recipe's name for it: of the entry, of the answers' file and of its samples
        found.append(part)
    return found


@dataclass(frozen=True)
class _Session:
    """Settings and state that all benchmarks of one evaluation share."""

    generator: Generator
    settings: Eval
    out: Path
    model: str
    """Digest of the weights."""
    draws: tuple[int | None, int | None]
    """Most questions of each benchmark, and the seed by which they are drawn."""
    parts: Mapping[str, tuple[str, Mapping[str, Any]]]
    """Registered type and arguments of each benchmark."""
    shots: Mapping[str, Shots]
    """Solved questions in front of those of a benchmark, where it has some."""
    systems: Mapping[str, str | None]
    """System message of each benchmark's conversations."""
    progress: Progress
    usage: Usage

    def entry(self, benchmark: Benchmark, blind: bool) -> dict[str, Any]:
        """The entry of one benchmark in ``results.json``."""
        limit, seed = self.draws
        system = self.systems[benchmark.name]
        questions = [under(system, benchmark[index]) for index in draw(benchmark, limit, seed)]
        if len({question.sample.name for question in questions}) < len(questions):
            raise MmllmError(f"{benchmark.name}: two questions of {benchmark.files[0]} have the same id.")
        decoding: dict[str, Any] = {"method": "greedy", "max_new_tokens": self.settings.max_new_tokens}
        if benchmark.ranks_options:
            decoding = {"method": benchmark.choice}
        if self.settings.cache is not None and self.settings.cache.dtype != "float32":
            decoding["features"] = self.settings.cache.dtype  # rounded, so an answer may be another
        files = digests.of_files(benchmark.files)
        shots = self.shots.get(benchmark.name)
        asked = benchmark.prompt if system is None else [system, benchmark.prompt]
        # all that an answer depends on but its media, which each line has: with another key it is asked again
        key = digests.of_value([__version__, self.model, asked, decoding, files, None if shots is None else shots.key])
        seen = self._predict(benchmark, questions, "", key)
        guessed = self._predict(benchmark, questions, "blind", key) if blind else None
        items = [item_of(one.sample) if (found := benchmark.cluster(one)) is None else found for one in questions]
        rule = best_rule(benchmark, questions, self._training(benchmark))
        answered = answered_of(questions, seen)
        unseen = answered_of(questions, guessed) if guessed else None
        without = {**summary(benchmark, unseen, items), **counts(guessed)} if guessed and unseen else {}
        ruled = None if rule is None else rule["answered"]
        return {
            "part": self._part(benchmark),
            "metric": benchmark.metric,
            "variant": benchmark.variant or None,
            **summary(benchmark, answered, items),
            **counts(seen),
            "items": len(set(items)),
            "kinds": kinds(benchmark, answered, items, unseen, ruled),
            "rule": None
            if rule is None
            else {"rule": rule["rule"], "score": score_of(benchmark, rule["answered"]), "fitted_on": rule["fitted_on"]},
            "blind": without.get("score"),
            "blind_interval": without.get("interval"),
            "blind_unparsed": without.get("unparsed"),
            "total": len(benchmark),
            "limit": limit,
            "sample": seed if limit is not None else None,
            "shots": None if shots is None else shots.record,
            "prompt": benchmark.prompt,
            **({} if system is None else {"system": system}),
            "decoding": decoding,
            "files": files,
            "key": key,
        }

    def _part(self, benchmark: Benchmark) -> dict[str, Any]:
        """Type and arguments, by which it can be opened again."""
        type, arguments = self.parts[benchmark.name]
        return dict(json.loads(json.dumps({"type": type, **arguments}, default=str)))

    def _training(self, benchmark: Benchmark) -> list[Question] | None:
        """The training questions that rules are fitted on, see :func:`best_rule`."""
        type, arguments = self.parts[benchmark.name]
        return training_split(registry.load("benchmarks", type), arguments, registry.parameters("benchmarks", type))

    def _shown_as(self, benchmark: Benchmark, mode: str) -> Callable[[Question], Question]:
        """What makes of a question what is asked: its shots in front of it, and in the blind mode all media out."""
        shots = self.shots.get(benchmark.name)

        def asked(question: Question) -> Question:
            whole = question if shots is None else shots.before(question)
            return blinded(whole) if mode else whole

        return asked

    def _predict(self, benchmark: Benchmark, questions: Sequence[Question], mode: str, key: str) -> list[Prediction]:
        """Predictions with the picture (mode ``""``) or without it (``blind``), under a line of progress."""
        name = f"{benchmark.name}.{mode}" if mode else benchmark.name
        task = self.progress.add_task(name, total=len(questions))
        answered = predict(
            self.generator,
            benchmark,
            questions,
            self.out / "predictions" / f"{name}.jsonl",
            key,
            self.settings.batch,
            self.settings.max_new_tokens,
            lambda more: self.progress.advance(task, more),
            self._shown_as(benchmark, mode),
        )
        self.usage.take(None if mode else benchmark.name)
        return answered


def under(system: str | None, question: Question) -> Question:
    """The question in a conversation with this system message, where it says one."""
    return replace(question, sample=with_system(question.sample, system))


def _begun(path: Path, generator: Generator, recipe: Recipe) -> dict[str, Any]:
    """Results so far where the file is about the same weights, else empty ones."""
    import torch
    import transformers

    from mmllm.recipe.load import digest

    parts = digests.of_parts(generator.model)
    model = digests.of_value(parts)
    # scores of other weights are dropped: one file is about one model
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {
        "recipe": {"name": recipe.name, "digest": digest(recipe)},
        "checkpoint": model,
        "digests": parts,
        "machine": {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": str(generator.model.device),
        },
        "benchmarks": before["benchmarks"] if before.get("checkpoint") == model else {},
    }


def _write(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(new, path)


def _progress(console: Any) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description:>24}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


def _show(console: Any, entries: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """One line per benchmark."""
    from rich.box import SIMPLE
    from rich.table import Table

    # counts only where there is something to say, so that the table fits a terminal of 80 columns
    counts = ["n", *(word for word in ("unparsed", "failed") if any(entry[word] for entry in entries.values()))]
    table = Table("benchmark", "metric", title=str(file), title_justify="left", pad_edge=False, box=SIMPLE)
    for name in ("score", "95 %", "blind", "rule", *counts):
        table.add_column(name, justify="right", no_wrap=True)
    for name, entry in entries.items():
        blind = "-" if entry["blind"] is None else f"{entry['blind']:.3f}"
        rule = "-" if entry["rule"] is None else f"{entry['rule']['score']:.3f}"
        numbers = [
            f"{entry['score']:.3f}",
            "-" if entry["interval"] is None else "{:.3f}-{:.3f}".format(*entry["interval"]),
            blind,
            rule,
            *(str(entry[word]) for word in counts),
        ]
        table.add_row(name, entry["metric"], *numbers)
    console.print(table)
