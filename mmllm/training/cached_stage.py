"""Kept features of a stage (`stages.X.cache`): opened for its model, their room checked before the first step."""

from __future__ import annotations

from collections.abc import Mapping

from mmllm.datasets.base import Dataset
from mmllm.model.feature_cache import FeatureCache, cache_as_said
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import weights_digest
from mmllm.recipe.stage_sections import Cache
from mmllm.training import distributed, feature_room


def open_cache(model: MultimodalLM, cache: Cache | None, verify: bool) -> FeatureCache | None:
    """Let the model of a stage keep features; None where it does not say so.

    Before the weights are partitioned, and once the stage has said what learns. Every rank calls it.

    Raises:
        MmllmError: features of an encoder that learns, or in which a connector works.
    """
    if cache is None:
        return None
    chosen = list(model.encoders) if cache.encoders is None else list(cache.encoders)
    digests: dict[str, str] = distributed.on_rank0(
        lambda: {f"encoders.{key}": weights_digest(model.encoders[key]) for key in chosen if key in model.encoders}
    )
    return cache_as_said(model, cache, digests=digests, verify=verify)


def check_room(
    cache: FeatureCache, model: MultimodalLM, datasets: Mapping[str, Dataset], n_samples: int, where: str
) -> str:
    """A sentence on the room that ``n_samples`` drawn samples take; MmllmError, on all ranks, where it is not there."""

    def looked() -> str:
        shown = {key: list(entry.encoders) for key, entry in model.inputs.items()}
        rooms = feature_room.estimated(cache, datasets, shown, n_samples)
        if not feature_room.fits(cache.folder, rooms):  # counting each takes a while where there are many
            media = feature_room.distinct(datasets, feature_room.minding(cache, shown))
            rooms = feature_room.counted(cache, media, shown)
        return feature_room.check(f"{where}.cache", cache.folder, rooms)

    said: str = distributed.on_rank0(looked)
    return said
