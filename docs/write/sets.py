"""The table of published sets that benchmarks read from their tables: names, tasks, what is asked and counted."""

from __future__ import annotations

import re

from mmllm import registry

_REPOSITORY = re.compile(r"(?:data set |folder dataset of )([\w.-]+(?:/[\w.-]+){1,2})")
PACKAGE = "mmllm.evaluation.benchmarks.published."


def table() -> str:
    """A row for each set: its word, what it is, where it comes from, split and metric."""
    rows = ["| benchmark | from | split | metric | the set |", "|---|---|---|---|---|"]
    for name, where in registry.table("benchmarks").items():
        if where.startswith(PACKAGE):
            rows.append(row(name))
    return "\n".join(rows)


def row(name: str) -> str:
    """The row of one set."""
    kind = registry.load("benchmarks", name)
    found = _REPOSITORY.search(kind.fetch)
    source = found[1] if found else ""
    split = ", ".join(f"`{one}`" for one in (kind.of_config, kind.of_split) if one)
    metric = f"`{kind.metric}`" + (f", `{kind.default_variant}`" if kind.default_variant else "")
    return f"| `{name}` | {source} | {split} | {metric} | {registry.summary('benchmarks', name)} |"
