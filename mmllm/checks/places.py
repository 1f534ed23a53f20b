"""What a word of a recipe names: something on this machine, a shipped part, or a repository of the hub; and near names.

Which arguments are places is told by the class's signature: ``path`` and ``media`` are on this machine; so is an
argument annotated ``Path``, and a text that ends in ``.safetensors`` or ``.gguf``. ``model`` of an encoder is a folder
or a repository of the hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmllm import registry
from mmllm.checks.report import Report
from mmllm.recipe import yaml_lines
from mmllm.recipe.files import shipped_root
from mmllm.recipe.part_arguments import accepted, default_of
from mmllm.recipe.shipped_parts import HOME, PARTS

LOCAL = ("path", "media")
"""Arguments that name something on this machine, in every class that has them."""
_FILES = (".safetensors", ".gguf")
_PATH = re.compile(r"\bPath\b")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Found:
    """A model's files: a folder or a file."""

    path: Path
    origin: Literal["folder", "shipped", "cached"]
    """Here, placed here by ``mmllm train``, or in the hub's cache, which may hold only a part of a repository."""


def local_arguments(group: str, type: str, args: Mapping[str, Any]) -> dict[str, str]:
    """Argument -> path for each argument of a part that names something on this machine; defaults count as well."""
    found = {}
    for name, parameter in accepted(group, type).items():
        value = args.get(name, default_of(parameter))
        annotated = _PATH.search(parameter.annotation) is not None
        if isinstance(value, str) and (name in LOCAL or annotated or value.endswith(_FILES)):
            found[name] = value
    return found


def missing(path: str) -> str | None:
    """The sentence for a path that is not there, with the near name beside it; None where it is there."""
    if Path(path).exists():
        return None
    if path.startswith("~"):
        return f'found "{path}"; ~ is not replaced in recipes, write the whole path'
    return f'there is no file or folder "{path}"{_near(Path(path))}'


def _near(path: Path) -> str:
    """Where a path leaves what is there, and the near name at that place."""
    existing = next((folder for folder in path.parents if folder.is_dir()), None)
    if existing is None:
        return ""
    lost, *rest = path.relative_to(existing).parts
    near = registry.nearest(lost, sorted(entry.name for entry in existing.iterdir()))
    if near:
        whole = existing.joinpath(near, *rest)
        return f'; did you mean "{whole if whole.exists() else existing / near}"?'
    return "" if existing == path.parent else f'; there is no "{existing / lost}" either'


def here_or_shipped(value: str) -> Found | None:
    """A folder or file that is here, or a miniature part that ``mmllm train`` will place here; None for neither."""
    here = Path(value)
    if here.exists():
        return Found(here, "folder")
    if here in {HOME / part for part in PARTS} and (shipped_root() / here).is_dir():
        return Found(shipped_root() / here, "shipped")
    return None


def model_files(value: str, path: yaml_lines.Path, report: Report) -> Found | None:
    """Files of a model that a recipe names by folder, file or id of the hub; None where there are none to look into.

    A missing folder is noted as an error, a model that only the hub has as a warning.
    """
    here = Path(value)
    found = here_or_shipped(value)
    if found is not None:
        return found
    if not _HUB_ID.fullmatch(value) or value.endswith(_FILES):
        report.error(path, missing(value) or "")
        return None
    snapshot = cached(value, "models")
    if snapshot is not None:
        return Found(snapshot, "cached")
    near = _near(here) if here.parent.is_dir() else ""
    if "/" in value and here.parent.is_dir():
        # the folder before the name is here, so nobody means an owner on the hub
        report.error(path, missing(value) or "")
    else:
        report.warning(path, f'"{value}" is no folder here, so it will be downloaded from the hub; not tested{near}')
    return None


def cached(name: str, kind: Literal["models", "datasets"]) -> Path | None:
    """Folder of a repository's main revision in the hub's cache on this machine; None where there is none.

    The layout is the one that huggingface_hub documents: ``models--OWNER--NAME/refs/main`` holds a folder's name.
    """
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE) / f"{kind}--{name.replace('/', '--')}"
    try:
        commit = (home / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    snapshot = home / "snapshots" / commit
    return snapshot if commit and snapshot.is_dir() else None
