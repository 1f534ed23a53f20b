"""Makes what was written stay written: for files that a kill or a power cut may find half way."""

from __future__ import annotations

import os
from pathlib import Path


def secure(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
