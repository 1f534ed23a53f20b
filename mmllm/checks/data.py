"""Data entries and benchmarks: what they name is there, conversations are opened, their first rows and media read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmllm import registry
from mmllm.checks.places import cached, local_arguments, missing
from mmllm.checks.report import Report
from mmllm.errors import MmllmError, SampleError
from mmllm.files.hub_names import is_dataset_of_hub
from mmllm.messages.learnable import check_answers, check_places
from mmllm.recipe import yaml_lines
from mmllm.recipe.shipped_parts import HOME

MOST_BYTES = 64 << 20
"""Largest file whose rows are counted: to find where 64 MiB of rows begin takes some tenths of a second."""
ROWS = 3
"""First rows that are read and whose media are looked for."""
HEAVY = ("torch", "transformers", "open_clip")
"""Packages that a check does not wait for: a part that imports one of them is not opened."""
_HUB = "hf://datasets/"
_ROWS_IN = (".jsonl", ".json", ".csv", ".tsv", ".tar")
"""Containers that are read as a whole to know where their rows begin."""
_PATTERN = re.compile(r"[*{]")


def check_data(key: str, type: str, args: Mapping[str, Any], placeholders: Sequence[str], report: Report) -> None:
    """Look at one data entry; ``placeholders`` are the keys that have a connector."""
    path: yaml_lines.Path = ("data", key)
    chat = "Chat" in registry.bases("datasets", type)
    if not _there("datasets", type, args, path, report, patterns=chat):
        return
    reason = _unopened("datasets", type, args, chat)
    if reason:
        report.warning(path, f"not opened: {reason}")
        return
    try:
        opened = registry.load("datasets", type)(**args)
    except (MmllmError, TypeError) as error:
        report.error(path, str(error))
        return
    report.note(path, opened.summary if chat else f"{len(opened):,} samples")
    _first_rows(opened, path, placeholders, report)


def check_benchmark(name: str, type: str, args: Mapping[str, Any], report: Report) -> None:
    """Look at one benchmark: its files are there and hold questions."""
    path: yaml_lines.Path = ("eval", "benchmarks", name)
    if not _there("benchmarks", type, args, path, report, patterns=False):
        return
    reason = _unopened("benchmarks", type, args, chat=False)
    if reason:
        report.warning(path, f"not opened: {reason}")
        return
    try:
        opened = registry.load("benchmarks", type)(**args)
    except (MmllmError, TypeError) as error:
        report.error(path, str(error))
        return
    report.note(path, f"{len(opened):,} {'question' if len(opened) == 1 else 'questions'}")
    try:
        opened[0]
    except MmllmError as error:
        report.error(path, str(error))
    except IndexError:
        report.error(path, "it holds no question")


def _there(
    group: str, type: str, args: Mapping[str, Any], path: yaml_lines.Path, report: Report, patterns: bool
) -> bool:
    """Whether all that a part names is there; what is not is noted."""
    there = True
    for name, value in local_arguments(group, type, args).items():
        if patterns and name == "path" and (_is_far(value) or _PATTERN.search(value)):
            continue
        lost = missing(value)
        if lost:
            at = (*path, name) if name in args else path
            way = _how_to_get(group, type, value)
            joined = "" if not way else " Or " if lost.endswith("?") else "; "
            report.error(at, f"{lost}{joined}{way}")
            there = False
    return there


def _is_far(path: str) -> bool:
    """Whether rows lie elsewhere: an address, or a dataset of the hub where nothing here has the name."""
    return "://" in path or is_dataset_of_hub(path)


def _how_to_get(group: str, type: str, path: str) -> str:
    """The end of a sentence about missing data: what the class says of fetching it, or who draws a miniature world."""
    parts = Path(path).parts
    if parts[:2] == HOME.parts and len(parts) > len(HOME.parts):
        world = parts[len(HOME.parts)]
        return f"`python -m mmllm.miniature {'data' if world == 'world' else f'sense {world}'}` draws it"
    fetch = registry.constant(group, type, "fetch")
    return f"{fetch[:1].lower()}{fetch[1:]}" if isinstance(fetch, str) else ""


# ---- what is not opened, and why


def _unopened(group: str, type: str, args: Mapping[str, Any], chat: bool) -> str | None:
    """Why a part is not opened here; None where it is."""
    where = registry.locate(group, type)
    if where.partition(".")[0] != registry.OWN:
        return "a class of another package may do anything when it is made; training opens it"
    if registry.imports_any(where.partition(":")[0], HEAVY):
        return f"{type} needs torch; training opens it"
    path = args.get("path", "")
    if chat and _is_far(path):
        name = path.removeprefix(_HUB)
        known = path.startswith(_HUB) or "://" not in path
        held = known and cached(name, "datasets") is not None
        return f'"{path}" is {"in the hub cache" if held else "not here; it will be downloaded"}'
    if chat and Path(path).is_dir() and not any(Path(path).glob("metadata.*")) and not any(Path(path).glob("*.tar")):
        return f"{path} is read by the library datasets, which needs torch; training opens it"
    size = sum(_sizes(path, args, chat))
    if size > MOST_BYTES:
        return (
            f"{path} has {size / (1 << 20):,.0f} MiB of rows, and check reads {MOST_BYTES >> 20} at most; "
            "training opens it"
        )
    return None


def _sizes(path: str, args: Mapping[str, Any], chat: bool) -> Iterator[int]:
    """Bytes of the files that hold rows, media aside."""
    here = Path(path)
    if here.is_file():
        yield here.stat().st_size if here.suffix.lower() in _ROWS_IN else 0
        return
    if here.is_dir():
        folders = [here, *(here / str(value) for name, value in args.items() if name in ("split", "videos"))]
        files = [file for folder in folders if folder.is_dir() for file in folder.iterdir()]
    else:  # a pattern: its numbers are opened by the container, which counts them
        files = list(here.parent.glob(re.sub(r"\{[^}]*\}", "*", here.name)))
    yield from (file.stat().st_size for file in files if file.suffix.lower() in _ROWS_IN and file.is_file())


# ---- rows


def _first_rows(opened: Any, path: yaml_lines.Path, placeholders: Sequence[str], report: Report) -> None:
    """Read a few samples: each can be read, its media are there and have a connector."""
    for index in range(min(ROWS, len(opened))):
        try:
            sample = opened[index]
        except SampleError as error:
            report.error(path, str(error))
            continue
        try:
            check_answers(sample)
            check_places(sample, placeholders)
        except SampleError as error:
            report.error(path, str(error))
        for key, items in sample.media.items():
            for item in items:
                if isinstance(item, Path) and not _is_there(item):
                    report.error(path, f"{sample.name}: its {key} {str(item)[:120]} is not there")


def _is_there(item: Path) -> bool:
    """Whether a media file is there; what follows its last # is a node or a segment of it."""
    try:
        return item.exists() or Path(str(item).rpartition("#")[0]).is_file()
    except OSError:  # a name longer than the system's
        return False
