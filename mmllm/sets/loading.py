"""A run folder as a set over frozen parts that other sets share: verified, landed tensor by tensor, or refused."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

from mmllm.checkpoints.digest_cache import DigestCache, frozen
from mmllm.checkpoints.load import Trust, cast_as_said, check_frozen, check_inputs, open_checkpoint
from mmllm.checkpoints.store import LEARNED, VerifiedCheckpoint
from mmllm.errors import CheckpointError
from mmllm.generation.learned_set import LearnedSet
from mmllm.hooks.passes import text_context
from mmllm.model.build import build, build_encoders
from mmllm.model.feature_cache import cache_as_said
from mmllm.model.input_digests import input_digests
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import load_trainable, trainable_state
from mmllm.recipe.models import Recipe
from mmllm.recipe.shaping import shaping
from mmllm.sets.engine import SetsEngine
from mmllm.sets.frozen_parts import LLM, FrozenParts

LOG = logging.getLogger("serve")

PROBE = 16
"""Tokens of the text by which a set without media is asked whether it changes anything."""


@dataclass(frozen=True)
class LoadedRun:
    """A run as something that can be asked."""

    recipe: Recipe
    learned: LearnedSet
    stage: str


def load_set(
    run: Path,
    name: str,
    engine: SetsEngine,
    parts: FrozenParts,
    overrides: Sequence[str] = (),
    trust: Trust | None = None,
) -> LoadedRun:
    """Load the last checkpoint of ``run`` as the set ``name`` and add it to ``engine``.

    Its frozen parts are those of ``parts`` where they are the same. Steps of the engine wait only while its connectors
    are made; files are read before. Arguments and errors as ``checkpoints.load.load_run`` has them.

    Raises:
        CheckpointError: besides, a set that changes nothing of what the frozen parts answer.
    """
    trust = trust or Trust()
    recipe, told, found = open_checkpoint(run, None, overrides, trust)
    tensors = _read_learned(found)
    llm, shared = parts.llm(told, found.manifest), parts.encoders(told, found.manifest)
    # loaded for another run, and held to the digests by which they were found
    known = {*([LLM] if llm is not None else []), *(f"encoders.{key}" for key in shared)}
    device = None if llm is None else llm.device
    if llm is not None:  # here, not while the engine is held up
        shared |= build_encoders(told, device, [key for key in told.encoders if key not in shared])
    # what is in memory already may be running
    with engine.between_steps() if llm is not None or shared else nullcontext():
        model = build(told, device, llm=llm, encoders=shared)
        try:
            digests = {part: found.manifest.frozen[part] for part in known}
            if found.manifest.frozen.keys() - known:
                digests = {**frozen(model, told, DigestCache(run, trust.verify), found.manifest.frozen), **digests}
            check_frozen(found, digests)
            check_inputs(found, input_digests(model), trust.changed)
            as_built = _same(model, tensors)
            load_trainable(model, tensors, later=found.manifest.frozen)
            _check_changes(model, name, run, as_built)
        finally:
            model.detach()
        cast_as_said(model, recipe, told)
        model.recipe = recipe
        cache_as_said(model, recipe.serve.cache, verify=trust.verify, adds=False)
    learned = LearnedSet(name, set_digest(found, recipe), model.eval(), len(tensors), _n_bytes(tensors))
    with engine.between_steps():
        engine.add(learned)
        try:
            _check_landed(model, name, tensors)
        except CheckpointError:
            engine.remove(learned)
            raise
    parts.keep(model, told, found.manifest)
    LOG.info(
        "%s: %d tensors, %.1f MB, digest %s, from %s",
        name, learned.n_tensors, learned.n_bytes / 1e6, learned.digest[:16], found.path,
    )  # fmt: skip
    return LoadedRun(recipe, learned, found.manifest.stage)


def _read_learned(found: VerifiedCheckpoint) -> dict[str, Tensor]:
    """The learned tensors, of the very bytes whose digest the manifest has.

    A run that is written anew meanwhile would else lend the old one's digest to the new weights.
    """
    data = (found.path / LEARNED).read_bytes()
    if hashlib.sha256(data).hexdigest() != found.manifest.files[LEARNED][1]:
        raise CheckpointError(f"{found.path / LEARNED} was changed while it was read; ask again once it is written")
    return load(data)


def set_digest(found: VerifiedCheckpoint, recipe: Recipe) -> str:
    """sha256 (hex) of a set's weights and of all that shapes what it makes of them."""
    told = found.manifest
    shaped = shaping(recipe, told.stage, finished=True)
    words = [told.files[LEARNED], told.frozen, told.inputs, recipe.llm.dtype, shaped["connectors"], shaped["encoders"]]
    return hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode()).hexdigest()


def _same(model: MultimodalLM, tensors: Mapping[str, Tensor]) -> bool:
    """Whether all learned tensors are already what these are."""
    own = trainable_state(model)
    return all(name in own and _equal(own[name], tensor) for name, tensor in tensors.items())


def _equal(own: Tensor, given: Tensor) -> bool:
    return own.shape == given.shape and torch.equal(own, given.to(own))


def _n_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _check_landed(model: MultimodalLM, name: str, tensors: Mapping[str, Tensor]) -> None:
    """CheckpointError unless each learned tensor is the file's, in the place where requests will meet it."""
    own = trainable_state(model)
    for key, tensor in tensors.items():
        if not _equal(own[key], tensor):
            raise CheckpointError(f"{name}: {key} is not what its checkpoint holds after it was loaded")


def _check_changes(model: MultimodalLM, name: str, run: Path, as_built: bool) -> None:
    """CheckpointError where a set leaves every answer as the frozen parts give it; its connectors are attached."""
    if as_built or not trainable_state(model):
        raise CheckpointError(
            f"{name} changes nothing: the weights of {run} are those that it began with; train it, or serve another run"
        )
    if not model.inputs and _answers_as_bare(model):
        raise CheckpointError(
            f"{name} changes nothing: with what {run} learned the LLM gives the same logits as without; train it, or "
            "serve another run"
        )


@torch.inference_mode()
def _answers_as_bare(model: MultimodalLM) -> bool:
    """Whether the LLM's logits of a text are the same, bit for bit, with and without the attached connectors."""
    llm = model.llm
    ids = torch.arange(PROBE, device=llm.device) * 7 % llm.vocab_size
    ctx = text_context(ids, torch.tensor([0, PROBE], dtype=torch.int32, device=llm.device))
    found = []
    for _ in range(2):
        found.append(llm.logits(llm(llm.embed(ids, ctx), ctx), ctx, torch.arange(PROBE, device=llm.device)))
        model.detach()
    return torch.equal(*found)
