"""Writes the files of a feature store so that a kill at any moment leaves whole files alone, whoever else writes."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mmllm.errors import MmllmError
from mmllm.files.durable import secure

SUFFIX = ".safetensors"
LEFT_OVER = 3600.0
"""Seconds after which a temporary file is that of a process that was killed."""


def write(folder: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> Path:
    """Write a new file of its own name: into a temporary one, secured, then renamed. Names sort by time.

    Raises:
        MmllmError: the disk is full or cannot be written.
    """
    path = folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}{SUFFIX}"
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), temporary, metadata)
        # safetensors makes it the owner's alone; whoever may read the folder may read this too
        temporary.chmod(folder.stat().st_mode & 0o666)
        secure(temporary)
        os.rename(temporary, path)
        secure(folder)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise MmllmError(
            f"features cannot be kept in {folder} ({reason}); what was written before is intact: make room there, or "
            "name another `dir` or a smaller `dtype` under `cache`, or leave the word out."
        ) from error
    return path


def prepare(folder: Path) -> None:
    """Make a folder that is to be written; MmllmError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MmllmError(
            f"features cannot be kept in {folder} ({error.strerror}); name another `dir` under `cache`."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MmllmError(f"features cannot be kept in {folder}, which may not be written; name another `dir`.")


def names(folder: Path) -> list[str]:
    """Names of the whole files of a folder, in the order in which they were written; MmllmError: it cannot be read."""
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX))
    except (FileNotFoundError, NotADirectoryError):  # nothing is kept yet; writing says what is wrong
        return []
    except OSError as error:
        raise MmllmError(f"features in {folder} cannot be read ({error.strerror}); name another `dir`.") from error


def remove_left_over(folder: Path) -> None:
    """Remove what killed processes left half written; files that are being written now stay."""
    for path in folder.glob(f"*{SUFFIX}.tmp-*"):
        try:
            if time.time() - path.stat().st_mtime > LEFT_OVER:
                path.unlink()
        except OSError:  # another process was faster, or it is not ours to remove
            continue
