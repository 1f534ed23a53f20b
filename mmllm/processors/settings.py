"""Everything that a processor was set to, as plain JSON: for digests that say whether preprocessing has changed.

``model.input_digests`` writes them into checkpoints, ``features`` keys what it keeps by them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmllm.processors.base import Processor
from mmllm.processors.tokenizer import ModelTokenizer

_PLACES = ("name_or_path", "transformers_version", "processor_class", "auto_map", "backend", "return_tensors", "device")
"""Settings of transformers' processors that say where they come from or who uses them, and change no pixel."""
_LIMITS = ("max_pixels", "max_seconds", "max_bytes", "max_nodes", "max_edges", "max_points", "timeout")
"""What an item may have at most, and how long reading it may take: of an item that is read they change nothing."""
_PLAIN = (bool, int, float, str, type(None))


def settings(processor: Processor, *, limits: bool = False) -> Any:
    """Everything that a processor was set to, as plain JSON: sizes, means, fits, rates; where it lies is left out.

    ``limits``: with what an item may have at most, for those who skip the reading that would refuse it.
    """
    return _plain(processor, set(), ("timeout",) if limits else _LIMITS)


def _plain(value: Any, seen: set[int], aside: Sequence[str]) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Path) or id(value) in seen:
        return None
    seen = {*seen, id(value)}
    if isinstance(value, ModelTokenizer):
        return vocabulary(value.loaded)
    if hasattr(value, "to_dict"):  # transformers' processors: what preprocessor_config.json holds
        value = value.to_dict()
    if isinstance(value, Mapping):
        items = sorted((str(key), one) for key, one in value.items())
        return {key: _plain(one, seen, aside) for key, one in items if key not in aside and not key.endswith(_PLACES)}
    if isinstance(value, list | tuple | set | frozenset):
        return [
            _plain(one, seen, aside)
            for one in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)
        ]
    if hasattr(value, "tolist"):
        return value.tolist()
    if type(value).__module__.partition(".")[0] == "torchvision":
        return repr(value)
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return str(getattr(value, "__name__", type(value).__name__))
    # what begins with an underscore is what it keeps while it works: caches, open files, workers
    inner = {key: one for key, one in vars(value).items() if not key.startswith("_")}
    return {"class": type(value).__name__, **_plain(inner, seen, aside)}


def vocabulary(tokenizer: Any) -> Any:
    """All that a fast tokenizer does with a text, without what its last call has set."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    return {word: value for word, value in parts.items() if word not in ("truncation", "padding")}
