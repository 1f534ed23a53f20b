"""Digests of data files: what tells that a source is still the one that a run began with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def of_files(files: Iterable[Path]) -> str:
    """SHA-256 (hex) over the contents of files, in order; their names do not count."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()
