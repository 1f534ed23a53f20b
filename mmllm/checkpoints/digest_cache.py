"""Digests of frozen parts and data files, remembered beside a run by the files they come from.

Hashing takes a second per gigabyte; a file of the same path, size and time of change is taken to be the same one
unless ``--verify`` is given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mmllm.checkpoints.store import all_gather, rank, replace_text
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import frozen_digests, frozen_parts, partitioned_parts
from mmllm.recipe.models import Recipe
from mmllm.recipe.shaping import PLACES

FILE = "digests.json"
"""In the run folder; not part of what a run is, and safe to delete."""


class DigestCache:
    """What was hashed before, by a key of its files; nothing is remembered where the folder cannot be written."""

    def __init__(self, run: Path | None, verify: bool = False) -> None:
        """``run``: its folder, None for no memory; ``verify``: hash everything anew."""
        self._file = run / FILE if run is not None else None
        self._verify = verify
        self._known: dict[str, str] = {}
        if self._file is not None and not verify:
            try:
                self._known = dict(json.loads(self._file.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                self._known = {}

    def digest(self, key: str | None, compute: Callable[[], str]) -> str:
        """Return what is known under ``key``, or compute and remember it; without a key it is computed."""
        if key is None:
            return compute()
        if key not in self._known:
            self._known[key] = compute()
            self._write()
        return self._known[key]

    def known(self, key: str | None) -> str | None:
        """Return what is known under ``key``, None where nothing is."""
        return self._known.get(key) if key is not None else None

    def _write(self) -> None:
        if self._file is None or not self._file.parent.is_dir():
            return
        try:
            replace_text(self._file, json.dumps(self._known, indent=1) + "\n")
        except OSError:  # a read-only run: it is hashed again the next time
            self._file = None


def frozen(model: MultimodalLM, recipe: Recipe, cache: DigestCache, wanted: Iterable[str] = ()) -> dict[str, str]:
    """As ``trainable.frozen_digests``, by way of the cache; parts that ZeRO-3 has split are left out."""
    found = {}
    split = partitioned_parts(model)
    for name in frozen_parts(model, set(wanted)):
        if name in split:
            continue
        key = _key(name, recipe, str(model.llm.dtype))
        found[name] = cache.digest(key, lambda name=name: frozen_digests(model, [name])[name])  # type: ignore[misc]
    return found


def frozen_in_parts(
    model: MultimodalLM, recipe: Recipe, cache: DigestCache, wanted: Iterable[str] = ()
) -> dict[str, str]:
    """The same of the parts that ZeRO-3 has split; every rank calls it, and rank 0's cache counts."""
    found = {}
    split = partitioned_parts(model)
    for name in frozen_parts(model, set(wanted)):
        if name in split:
            key = _key(name, recipe, str(model.llm.dtype))
            known = all_gather(cache.known(key))[0]
            # all ranks gather each weight for it, and only rank 0 has to remember what came out
            digest = known or frozen_digests(model, [name])[name]
            found[name] = cache.digest(key, lambda digest=digest: digest) if rank() == 0 else digest  # type: ignore[misc]
    return found


def key_of_files(kind: str, files: Iterable[Path]) -> str | None:
    """Key of what a digest of ``files`` depends on: their paths, sizes and times of change; None where one is gone."""
    stats = []
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            return None
        stats.append([str(file.resolve()), stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(json.dumps([kind, stats]).encode()).hexdigest() if stats else None


def _key(name: str, recipe: Recipe, dtype: str) -> str | None:
    """Key of a part: its words in the recipe and all files of its places; None unless all of them are local."""
    section, _, key = name.partition(".")
    words = recipe.llm.model_dump(mode="json") if section == "llm" else getattr(recipe, section)[key].args
    places = list(_places(words))
    if not places or not all(place.exists() for place in places):
        return None  # of the hub, or drawn from a seed
    found = [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*")))]
    files = [file for file in found if file.is_file()]
    return key_of_files(json.dumps([name, words, dtype], default=str), files)


def _places(words: Any) -> Iterator[Path]:
    for word, value in words.items():
        if isinstance(value, dict):
            yield from _places(value)
        elif word in PLACES and isinstance(value, str) and (word != "model" or "/" in value or Path(value).exists()):
            yield Path(value)
