"""The `monitor:` blocks of stages: their packages are installed and their words are DeepSpeed's."""

from __future__ import annotations

import importlib.util
from typing import Any

from mmllm.checks.configs import monitor_words
from mmllm.checks.report import Report
from mmllm.recipe import yaml_lines
from mmllm.recipe.messages import unknown
from mmllm.recipe.models import Stage

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "comet": "comet_ml"}
"""Monitor -> package that DeepSpeed imports for it; ``csv`` needs none."""


def check_monitors(key: str, stage: Stage, report: Report) -> None:
    """Note a monitor that could not start, in one sentence each."""
    for name, block in stage.monitor.items():
        path: yaml_lines.Path = ("stages", key, "monitor", name)
        if block is False:
            continue
        package = PACKAGES.get(name)
        if package and importlib.util.find_spec(package) is None:
            report.error(path, f"the package {package} is not installed; install it with: pip install {package}")
        _words(path, name, block, report)


def _words(path: yaml_lines.Path, name: str, block: Any, report: Report) -> None:
    known = monitor_words().get(name, ())
    if isinstance(block, dict):
        for word in block:
            if known and word not in known:
                report.error((*path, word), unknown(f"word of DeepSpeed's {name} monitor", word, known))
    elif block is not True and block is not None:
        report.error(path, f"found {block!r}; give true, or a mapping of {', '.join(known)}")
