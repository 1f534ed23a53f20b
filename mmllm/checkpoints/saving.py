"""A checkpoint that is written while training goes on; the protocol of ``store`` is kept.

The tensors are copied when the save begins. A thread of each rank writes and hashes its files and talks to nobody; when
all ranks have, the training threads agree and rank 0 publishes, so that a kill before that leaves no checkpoint.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmllm.checkpoints import store
from mmllm.checkpoints.store import Manifest, Written


class Saving:
    """One checkpoint on its way. Every rank makes and finishes it at the same step."""

    def __init__(self, folder: Path, head: Manifest, files: Mapping[str, Any], keep: int) -> None:
        """Begin; arguments as ``store.commit`` has them. What ``files`` hold may change as soon as this returns."""
        self.head, self.keep = head, keep
        self._tmp = store.begin(folder, head)
        self._copies = {name: _copied(content) for name, content in files.items()}
        self._result: Written | None = None
        # no daemon: a process that ends in order lets its file be written whole
        self._thread = threading.Thread(target=self._write, name="checkpoint")
        self._thread.start()

    def _write(self) -> None:
        self._result = store.write(self._tmp, self._copies)

    @property
    def written(self) -> bool:
        """Whether this rank's files are on the disk (or could not be put there)."""
        return not self._thread.is_alive()

    def finish(self) -> Path:
        """Wait for this rank's files, then as ``store.finish``: all ranks call it together.

        Raises:
            CheckpointError: on every rank, where one could not write; older checkpoints are untouched.
        """
        self._thread.join()
        # None only where writing raised what is no failure of a disk; the thread has printed it
        written = self._result or (f"rank {store.rank()}: its files could not be written", {})
        return store.finish(self._tmp, self.head, written, self.keep)


def _copied(content: Any) -> Any:
    """Tensors on the CPU in memory of their own; JSON values as they are."""
    if isinstance(content, Mapping) and content and all(isinstance(one, torch.Tensor) for one in content.values()):
        return {name: tensor.detach().cpu().clone() for name, tensor in content.items()}
    return content
