"""Lets a model keep features of its frozen encoders: ``cache_features(model)``; the store itself is ``features``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmllm.encoders.base import Encoder
from mmllm.errors import MmllmError
from mmllm.features.contents import ContentDigests
from mmllm.features.encoder_cache import EncoderCache
from mmllm.features.keys import description, digest
from mmllm.features.record import DTYPES
from mmllm.features.store import FeatureStore
from mmllm.llms.gguf_cache import cache_root
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import weights_digest
from mmllm.recipe.stage_sections import Cache

FOLDER = "features"
CONTENTS = "contents"
"""Folder in a store that remembers digests of files."""


class FeatureCache:
    """Kept features of some encoders in one folder."""

    def __init__(self, folder: Path, caches: Mapping[str, EncoderCache], contents: ContentDigests) -> None:
        self.folder, self.encoders, self._contents = folder, dict(caches), contents

    @property
    def n_computed(self) -> int:
        """Items that encoders were run for since it was opened."""
        return sum(cache.n_computed for cache in self.encoders.values())

    def commit(self) -> None:
        """Write down what was computed; MmllmError where the disk is full."""
        for cache in self.encoders.values():
            cache.store.commit()
        self._contents.commit()


def open_features(
    encoders: Mapping[str, Encoder],
    folder: Path | None = None,
    dtype: str = "float16",
    *,
    digests: Mapping[str, str] | None = None,
    verify: bool = False,
    adds: bool = True,
) -> FeatureCache:
    """Open the kept features of these encoders, which are on the device and in the dtype that computes them.

    Args:
        encoders: key -> frozen encoder.
        folder: of the store, which runs share; default: ``features`` in mmllm's cache.
        dtype: what features are kept as, and rounded to before they are used: float16, bfloat16, float32.
        digests: ``encoders.<key>`` -> sha256 of its weights, where they are known.
        verify: hash media files anew, even where they have not changed since they were hashed.
        adds: whether what is computed is kept; else what is there is only read.

    Raises:
        MmllmError: a dtype that is not known, an encoder that learns or has connectors inside, a processor that draws
            at random.
    """
    if dtype not in DTYPES:
        raise MmllmError(f'cache: dtype "{dtype}" is unknown; known: {", ".join(DTYPES)}.')
    root = cache_root() / FOLDER if folder is None else Path(folder)
    contents = ContentDigests(root / CONTENTS, verify=verify)
    caches = {}
    for key, encoder in encoders.items():
        name = f"encoders.{key}"
        _check(name, encoder)
        weights = (digests or {}).get(name) or weights_digest(encoder)
        said = description(encoder, weights, dtype)
        store = FeatureStore(root / digest(said)[:32], said)
        caches[key] = EncoderCache(name, encoder, store, contents, DTYPES[dtype], adds)
    return FeatureCache(root, caches, contents)


def cache_features(
    model: MultimodalLM,
    folder: Path | None = None,
    dtype: str = "float16",
    *,
    encoders: Sequence[str] | None = None,
    digests: Mapping[str, str] | None = None,
    verify: bool = False,
    adds: bool = True,
) -> FeatureCache:
    """Let a model keep features of its encoders (default: of all) and read those that are kept, from now on.

    ``Input.read`` and ``MultimodalLM.encode`` then use them; call :meth:`FeatureCache.commit` at the end. The other
    arguments and errors are those of :func:`open_features`.
    """
    chosen = list(model.encoders) if encoders is None else list(encoders)
    unknown = [key for key in chosen if key not in model.encoders]
    if unknown:
        known = ", ".join(model.encoders) or "none"
        raise MmllmError(f'cache: encoders: "{unknown[0]}" is no encoder of this model; known: {known}.')
    named = {key: model.encoders[key] for key in chosen}
    cache = open_features(named, folder, dtype, digests=digests, verify=verify, adds=adds)  # type: ignore[arg-type]
    for entry in model.inputs.values():
        entry.caches.update({key: one for key, one in cache.encoders.items() if key in entry.encoders})
    return cache


def cache_as_said(
    model: MultimodalLM,
    cache: Cache | None,
    *,
    digests: Mapping[str, str] | None = None,
    verify: bool = False,
    adds: bool = True,
) -> FeatureCache | None:
    """:func:`cache_features` as the word `cache` of a recipe says; None where it is left out."""
    if cache is None:
        return None
    folder = None if cache.dir is None else Path(cache.dir)
    return cache_features(
        model, folder, cache.dtype, encoders=cache.encoders, digests=digests, verify=verify, adds=adds
    )


def _check(name: str, encoder: Encoder) -> None:
    """Raise MmllmError for an encoder whose features change."""
    key = name.rpartition(".")[-1]
    why = None
    if encoder.adapters:
        why = f"{type(encoder.adapters[0]).__name__} works inside it"
    elif any(weight.requires_grad for weight in encoder.parameters()):
        why = "it learns"
    elif not encoder.processor.deterministic:
        why = "its processor draws at random (augmentation)"
    if why is not None:
        raise MmllmError(
            f"cache: features of {name} cannot be kept, as {why}; name the other encoders under `cache: {{encoders: "
            f"[...]}}`, without {key}, or leave `cache` out."
        )
