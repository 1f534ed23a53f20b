"""``mmllm chat real``, ``mmllm serve real``: the committed run of the real model over parts that were fetched here."""

from __future__ import annotations

from pathlib import Path

from mmllm.errors import MmllmError
from mmllm.real.fetch import is_whole
from mmllm.real.sources import PARTS
from mmllm.recipe.files import shipped_root

NAME = "real"
RUN = Path("data/real/run")
"""The run folder, in a clone: recipe and learned weights."""
HOME = Path("data/real")
"""Where its recipe has the frozen parts, below the current folder."""


def real_run() -> Path:
    """Folder of the run; MmllmError where it, or one of its parts, is not here.

    Whether the parts are the ones it was trained with is seen when it is opened: its checkpoint has their digests.
    """
    folder = shipped_root() / RUN
    if not (folder / "recipe.yaml").is_file():
        raise MmllmError(
            f"there is no {folder}: the learned weights of the real model are files of the repository; train your own "
            "in a clone with: make real"
        )
    missing = [str(HOME / part.folder) for part in PARTS.values() if not is_whole(HOME / part.folder, part)]
    if missing:
        raise MmllmError(
            f"the real model needs {', '.join(missing)}, not fetched into {Path.cwd()} or not whole; fetch them with: "
            f"python -m mmllm.real fetch {HOME}"
        )
    return folder
