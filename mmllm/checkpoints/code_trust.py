"""Whether a run may name code of its own: opening a run folder from elsewhere must not run what it happens to name.

A recipe's ``type: module:Class`` imports a module. That is done without asking for modules of packages that the user
installed, and for runs that were trained on this account; all else needs ``--trust-code``.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import json
import os
import secrets
import site
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mmllm.errors import CheckpointError
from mmllm.recipe.models import Recipe

FILE = "code.json"
"""In a run folder whose recipe names classes of the user's own: which, signed with a key of this account."""


def check_code(run: Path, trusted: bool) -> None:
    """CheckpointError where the recipe of ``run`` names classes that are neither installed, signed, nor ``trusted``."""
    names = [] if trusted else _foreign(run)
    if names and not _signed(run, names):
        raise CheckpointError(
            f"{run} names code of its own: {', '.join(names)}; opening it runs the modules of that name that lie here: "
            "look at them first, then go on with --trust-code (trust_code=True in Python)"
        )


def sign_code(run: Path) -> None:
    """Remember that the classes which the recipe of ``run`` names were run here, in the training that is about to."""
    names = _foreign(run)
    if names:
        from mmllm.checkpoints.store import replace_text  # here: opening a recipe must not import torch

        replace_text(run / FILE, json.dumps({"classes": names, "signature": _signature(names)}, indent=1) + "\n")


def _foreign(run: Path) -> list[str]:
    """Names ``module:Class`` of a run's recipe outside mmllm and the installed packages, as its text has them."""
    try:
        data = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []  # whoever reads the recipe says what is wrong with it
    return sorted({name for name in _types(data) if not _installed(name.partition(":")[0])})


def _types(value: Any) -> Iterator[str]:
    """Every ``type`` with a colon, wherever it stands; benchmarks are named by their key."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "type" and isinstance(inner, str) and ":" in inner:
                yield inner
            if isinstance(key, str) and ":" in key:
                yield key
            yield from _types(inner)
    elif isinstance(value, list):
        yield from (one for one in value if isinstance(one, str) and ":" in one and " " not in one)
        for inner in value:
            yield from _types(inner)


def _installed(module: str) -> bool:
    """Whether a module belongs to a package that was installed; of the standard library none is a part of a recipe."""
    first = module.partition(".")[0]
    if first == Recipe.__module__.partition(".")[0]:
        return True
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return False
    if spec is None or spec.origin is None:
        return False
    place = Path(spec.origin).resolve()
    paths = [*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("purelib")]
    return any(place.is_relative_to(Path(path).resolve()) for path in paths)


def _signed(run: Path, names: list[str]) -> bool:
    try:
        found = json.loads((run / FILE).read_text(encoding="utf-8"))
        return hmac.compare_digest(str(found["signature"]), _signature(names))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _signature(names: list[str]) -> str:
    return hmac.new(_key(), json.dumps(names).encode(), hashlib.sha256).hexdigest()


def _key() -> bytes:
    """A secret of this account, made at its first use; of the process alone where no home can be written."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    file = Path(state) / "mmllm" / "code.key"
    try:
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as opened:
                opened.write(secrets.token_bytes(32))
        return file.read_bytes()
    except OSError:
        return secrets.token_bytes(32)
