"""Tables of the real model's page, from files that ``python -m mmllm.real keep`` wrote into ``data/real/results``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path("data/real/results")
MODEL, DIGITS, SPEAKER, CONNECTOR, CHOICE, TEACHER = "real", "digits", "speaker", "connector", "choice", "teacher"
"""How the names of files begin: ``real.seed-0``, ``speaker.theo.seed-0``, ``connector.mlp.seed-0``, ``choice.look``,
``teacher.text.seed-0``."""
ROWS: tuple[tuple[str, str, str | None, str], ...] = (
    ("spoken digits, takes 0 to 4 of six speakers", "fsdd", None, "0.95"),
    ("easy-VQA: colour", "easy_vqa", "colour", "0.90"),
    ("easy-VQA: shape", "easy_vqa", "shape", "0.90"),
    ("easy-VQA: yes/no", "easy_vqa", "yes/no", ""),
    ("easy-VQA: yes/no, plain questions", "easy_vqa", "yes/no: plain", ""),
    ("easy-VQA: yes/no, negated questions", "easy_vqa", "yes/no: negated", ""),
    ("emoji: kind of held-out pictures, six kinds", "emoji_kind", None, "0.55"),
)
"""What is asked, benchmark, kind of it, floor that was set beforehand."""


def scores() -> str:
    """A row for each kind of question, over the runs there are."""
    runs = _read(MODEL) | _read(DIGITS)
    lines = [
        "| asked | score | runs (seeds) | n | without media | best question-only rule | floor |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, benchmark, kind, floor in ROWS:
        asked = [run for run in runs.values() if benchmark in run["benchmarks"]]
        found = [(one, run["seed"]) for run in asked if (one := _entry(run, benchmark, kind)) is not None]
        if found:
            lines.append(_row(title, [one for one, _ in found], [seed for _, seed in found], floor))
    speakers = _by_speaker()
    if speakers:
        means = [sum(one["score"] for one in held) / len(held) for held in speakers.values()]
        one_seed = next(iter(speakers.values()))
        title = f"spoken digits, speakers never heard (mean of {len(one_seed)})"
        n = sum(one["n"] for one in one_seed)
        lines.insert(3, f"| {title} | {_spread(means)} | {_seeds(list(speakers))} | {n} | - | - | 0.85 |")
    return "\n".join(lines)


def speakers() -> str:
    """A row for each speaker who was left out of the training."""
    lines = ["| left out | score | 95 % interval | n | steps |", "|---|---|---|---|---|"]
    for name, run in sorted(_read(SPEAKER).items()):
        one = run["benchmarks"]["fsdd"]
        steps = sum(stage["steps"] for stage in run["stages"].values())
        who = " ".join(name.split(".")[1:])
        lines.append(f"| {who} | {one['score']:.3f} | {_between(one)} | {one['n']} | {steps} |")
    return "\n".join(lines)


def connectors() -> str:
    """A row for each connector that was tried on the real LLM."""
    lines = ["| connector | learned | steps | colour | shape | yes/no | n |", "|---|---|---|---|---|---|---|"]
    for name, run in sorted(_read(CONNECTOR).items()):
        entry = run["benchmarks"]["easy_vqa"]
        kinds = [entry["kinds"][kind]["score"] for kind in ("colour", "shape", "yes/no")]
        steps = sum(stage["steps"] for stage in run["stages"].values())
        cells = " | ".join(f"{score:.3f}" for score in kinds)
        lines.append(f"| {name.split('.')[1]} | {run['learned']:,} | {steps} | {cells} | {entry['n']} |")
    return "\n".join(lines)


def choices() -> str:
    """A row for each run that was compared on training pictures held out."""
    kinds = ("colour", "shape", "yes/no: plain", "yes/no: negated")
    lines = [f"| stages | {' | '.join(kinds)} | all | n | seed |", "|---" * (len(kinds) + 4) + "|"]
    for run in _read(CHOICE).values():
        entry = run["benchmarks"]["held_out"]
        cells = " | ".join(f"{entry['kinds'][kind]['score']:.3f} ({entry['kinds'][kind]['n']})" for kind in kinds)
        stages = ", ".join(run["stages"])
        lines.append(f"| {stages} | {cells} | {entry['score']:.3f} | {entry['n']} | {run['seed']} |")
    return "\n".join(lines)


def teachers() -> str:
    """A row for plain labels and for ``distill: text``, over their seeds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, run in _read(TEACHER).items():
        found.setdefault(name.split(".")[1], []).append(run)
    lines = ["| learned from | spoken digits | runs (seeds) | n | steps |", "|---|---|---|---|---|"]
    for name, runs in found.items():
        entries = [run["benchmarks"]["fsdd"] for run in runs]
        seeds = _seeds([run["seed"] for run in runs])
        steps = sum(stage["steps"] for stage in runs[0]["stages"].values())
        spread = _spread([one["score"] for one in entries])
        lines.append(f"| {name} | {spread} | {seeds} | {entries[0]['n']} | {steps} |")
    return "\n".join(lines)


def text() -> str:
    """What is left of the bare LLM in text."""
    head = "| run | perplexity of a text | of the bare LLM | 20 prompts: logits, answers | from transformers' own |"
    lines = [head, "|---|---|---|---|---|"]
    for name, run in sorted(_read(MODEL).items()):
        told = run["text"]
        if told:
            same = "equal to the last bit" if told["equal"] else "differ"
            own = f"{told['perplexity']:.6f} ({told['tokens']} tokens)"
            furthest = f"{told['furthest_from_transformers']:.1e}"
            lines.append(f"| {name} | {own} | {told['perplexity_bare']:.6f} | {same} | {furthest} |")
    return "\n".join(lines)


def samples() -> str:
    """Answers of one run to questions drawn evenly from each benchmark, with their pictures."""
    name, run = next(((name, run) for name, run in _read(MODEL).items() if run["samples"]), ("", {"samples": []}))
    lines = ["| shown | question | answer | truth |", "|---|---|---|---|"]
    for one in run["samples"]:
        picture = one["picture"]
        shown = f"![{one['media']}](pictures/real/{picture})" if picture else f"`{one['media']}`"
        lines.append(f"| {shown} | {one['question']} | {one['answer']} | {one['truth']} |")
    return "\n".join([f"Of `{name}`:", "", *lines])


def machine() -> str:
    """Where the figures are from, and how long the runs took."""
    lines = []
    for name, run in sorted(_read(MODEL).items()):
        stages = "; ".join(
            f"{stage}: {one['steps']} steps, {one['conversations']:,} conversations, {one['tokens']:,} tokens, "
            f"{one['seconds'] / 60:.0f} minutes"
            for stage, one in run["stages"].items()
        )
        lines.append(f"- `{name}` (seed {run['seed']}, {run['learned']:,} learned parameters): {stages}.")
    first = next(iter(_read(MODEL).values()), None)
    if first is not None:
        told = first["machine"]
        lines.append(
            f"- {told['platform']}, torch {told['torch']}, transformers {told['transformers']}, {told['device']}."
        )
    return "\n".join(lines)


def _read(begin: str) -> dict[str, dict[str, Any]]:
    files = sorted(FOLDER.glob(f"{begin}.*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def _entry(run: Mapping[str, Any], benchmark: str, kind: str | None) -> Mapping[str, Any] | None:
    whole: Mapping[str, Any] = run["benchmarks"][benchmark]
    found: Mapping[str, Any] | None = whole if kind is None else whole["kinds"].get(kind)
    return found


def _seeds(seeds: Sequence[int]) -> str:
    """How many runs there are, and their seeds, each once."""
    return f"{len(seeds)} ({', '.join(map(str, sorted(set(seeds))))})"


def _row(title: str, found: Sequence[Mapping[str, Any]], seeds: Sequence[int], floor: str) -> str:
    cells = [title, _spread([one["score"] for one in found]), _seeds(seeds), str(found[0]["n"])]
    for word in ("blind", "rule"):
        values = [one[word] for one in found if one[word] is not None]
        cells.append(f"{sum(values) / len(values):.3f}" if values else "-")
    return f"| {' | '.join([*cells, floor or '-'])} |"


def _by_speaker() -> dict[int, list[Mapping[str, Any]]]:
    """Seed -> entries of the speakers left out; seeds that have all of them."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for run in _read(SPEAKER).values():
        found.setdefault(run["seed"], []).append(run["benchmarks"]["fsdd"])
    most = max(map(len, found.values()), default=0)
    return {seed: entries for seed, entries in found.items() if len(entries) == most}


def _spread(values: Sequence[float]) -> str:
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}-{max(values):.3f})"


def _between(entry: Mapping[str, Any]) -> str:
    return "{:.3f}-{:.3f}".format(*entry["interval"])
