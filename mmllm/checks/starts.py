"""Weights that a recipe or a connector starts from: another run, a file, a published model; opened without torch."""

from __future__ import annotations

from pathlib import Path

from mmllm.checks.encoders import check_weights_file
from mmllm.checks.llm import weights
from mmllm.checks.places import model_files
from mmllm.checks.report import Report
from mmllm.files import safetensors_files
from mmllm.recipe import yaml_lines
from mmllm.recipe.located import is_run
from mmllm.recipe.models import Start
from mmllm.recipe.shaping import IMPORTED


def check_start(path: yaml_lines.Path, start: Start | None, prefix: str, report: Report) -> None:
    """Note what is wrong with a start; None: weights are drawn.

    ``prefix``: how the tensors' names begin in a run where the start says nothing else; empty for a whole recipe.
    """
    if start is None or start.by is not None:
        return
    place = Path(start.path)
    if is_run(place):
        _run(path, start, start.prefix or prefix, report)
        return
    found = model_files(start.path, path, report)
    if found is not None and found.path.is_file():
        check_weights_file(found.path, path, report)
    elif found is not None and not prefix:
        report.error(path, f"{start.path} is neither a run that mmllm train made nor a safetensors file")
    elif found is not None:
        weights(found, path, report)


def _run(path: yaml_lines.Path, start: Start, prefix: str, report: Report) -> None:
    """The newest checkpoint of a run, or of one of its stages, holds tensors of that name."""
    run = Path(start.path)
    document = yaml_lines.read((run / "recipe.yaml").read_text(encoding="utf-8")) if _has_recipe(run) else None
    data = document.data if document is not None else None
    stages = list(data["stages"]) if isinstance(data, dict) and isinstance(data.get("stages"), dict) else []
    if (run / "stages" / IMPORTED).is_dir():
        stages = [IMPORTED, *stages]
    if start.stage is not None and start.stage not in stages:
        report.error(path, f"{run} has no stage {start.stage!r}; its stages are {', '.join(stages) or 'unknown'}")
        return
    wanted = [start.stage] if start.stage else stages[::-1]
    files = [file for stage in wanted for file in _checkpoints(run / "stages" / stage)]
    if not files:
        report.error(path, f"{run} has no checkpoint; train it first")
        return
    try:
        names = safetensors_files.tensors(files[0])
    except safetensors_files.DamagedError as error:
        report.error(path, str(error))
        return
    if prefix and not any(name.startswith(prefix) for name in names):
        parts = sorted({".".join(name.split(".")[:2]) for name in names})
        report.error(path, f"{run} has learned {', '.join(parts)}, and nothing below {prefix}")


def _has_recipe(run: Path) -> bool:
    return (run / "recipe.yaml").is_file()


def _checkpoints(stage: Path) -> list[Path]:
    """Learned tensors of a stage's checkpoints, newest first."""
    steps = [path for path in stage.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    steps.sort(key=lambda path: int(path.name.removeprefix("step-")), reverse=True)
    return [path / "learned.safetensors" for path in steps if (path / "learned.safetensors").is_file()]
