"""Whether a stage goes on with the tokenizer, template, preprocessing and data it began with, by their digests."""

from __future__ import annotations

from collections.abc import Mapping

from mmllm.checkpoints.digest_cache import DigestCache, key_of_files
from mmllm.checkpoints.load import check_inputs
from mmllm.checkpoints.store import VerifiedCheckpoint
from mmllm.datasets.base import Dataset
from mmllm.model.input_digests import input_digests
from mmllm.model.model import MultimodalLM
from mmllm.training import distributed


def digests_of(model: MultimodalLM, datasets: Mapping[str, Dataset], cache: DigestCache) -> dict[str, str]:
    """``tokenizer``, ``template``, ``preprocessing.<encoder>`` and ``data.<key>`` -> sha256; on rank 0, for all."""

    def found() -> dict[str, str]:
        every = input_digests(model)
        for key, dataset in datasets.items():
            every[f"data.{key}"] = cache.digest(key_of_files(key, dataset.files), dataset.digest)
        return every

    return distributed.on_rank0(found)


def accepted(start: VerifiedCheckpoint | None, stage: str, digests: Mapping[str, str], accept: bool) -> list[str]:
    """Differences from ``start`` that were accepted so far, as sentences for the checkpoints to come.

    Raises:
        CheckpointError: there is one that is not accepted.
    """
    if start is None:
        return []
    # what the stages before read counts no more: it may be gone
    own = start.manifest.stage == stage
    compared = {name: digest for name, digest in digests.items() if own or not name.startswith("data.")}
    other = distributed.on_rank0(lambda: check_inputs(start, compared, accept))
    step = start.manifest.step + 1 if own else 1
    return [*start.manifest.accepted, *(f"{name} changed before step {step} of stage {stage}" for name in other)]
