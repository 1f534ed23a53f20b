"""Which names of data are those of datasets on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"([\w.-]+)/[\w.-]+")


def is_dataset_of_hub(name: str) -> bool:
    """Whether a name is OWNER/NAME; one that begins with a folder of here, or has an ending, is a path of here."""
    found = _NAME.fullmatch(name)
    return found is not None and not Path(found[1]).exists() and not Path(name).suffix
