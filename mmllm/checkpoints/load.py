"""Open a run folder: its resolved recipe and the newest checkpoint that verifies, put into a fresh model.

Everything right of training (generate, eval, serve) gets its model here; ``store`` knows the folder itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmllm.checkpoints.store import LEARNED, VerifiedCheckpoint, checkpoints, newest, read_tensors
from mmllm.errors import CheckpointError
from mmllm.model.build import build
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import frozen_digests, load_trainable
from mmllm.recipe.load import digest, load_recipe
from mmllm.recipe.models import Recipe


def load_run(
    run: Path, device: torch.device | str | None = None, stage: str | None = None
) -> tuple[Recipe, MultimodalLM]:
    """The recipe of a run folder and its model in eval mode with the learned weights.

    ``stage``: of that stage instead of the last one that has a checkpoint. Logs a warning for every damaged checkpoint
    it skips. Raises CheckpointError: no run, no usable checkpoint, or frozen parts other than those it was trained on.
    """
    recipe = run_recipe(run)
    found, skipped = last_checkpoint(run, recipe, stage)
    for sentence in skipped:
        logging.getLogger(__name__).warning(sentence)
    if found is None:
        why = f" ({'; '.join(skipped)})" if skipped else ""
        what = f"no checkpoint of stage {stage}" if stage else "no checkpoint"
        raise CheckpointError(f"{run} has {what} that can be used{why}; train it: mmllm train {run / 'recipe.yaml'}")
    if found.manifest.recipe != digest(recipe):
        raise CheckpointError(
            f"{found.path} was trained with another recipe than {run / 'recipe.yaml'} now holds; put the old one back"
        )
    model = build(recipe, device)
    check_frozen(found, frozen_digests(model))
    load_trainable(model, read_tensors(found.path / LEARNED))
    return recipe, model.eval()


def find_run(run: str | Path, **hub: Any) -> Path:
    """The run folder itself, or a local copy of the hub's repository ``user/name`` where there is no such folder.

    ``hub``: arguments of ``huggingface_hub.snapshot_download``.
    """
    folder = Path(run)
    user, slash, _ = str(run).partition("/")
    # what starts in a folder that is here, or in the one where runs are put, is a mistyped path: never asked for over
    # the network
    if folder.exists() or not slash or user == "runs" or Path(user).exists():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(str(run))
    except HFValidationError:  # no `user/name`, so nothing that the hub could have
        return folder
    try:
        return Path(snapshot_download(str(run), **hub))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise CheckpointError(
            f"{run} is no run folder, and the hub has no such repository that could be reached "
            f"({type(error).__name__}); give a folder that mmllm train made"
        ) from error


def run_recipe(run: Path) -> Recipe:
    """The resolved recipe of a run folder; CheckpointError if ``run`` is none."""
    path = run / "recipe.yaml"
    if not path.is_file():
        raise CheckpointError(f"{run} is no run folder: it has no recipe.yaml; give a folder that mmllm train made")
    return load_recipe(path)


def last_checkpoint(run: Path, recipe: Recipe, stage: str | None = None) -> tuple[VerifiedCheckpoint | None, list[str]]:
    """The newest verified checkpoint of the last stage that has one (or of ``stage``), and why others were skipped."""
    if stage is not None and stage not in recipe.stages:
        raise CheckpointError(f"{run} has no stage {stage!r}; its stages are {', '.join(recipe.stages)}")
    skipped: list[str] = []
    for name in [stage] if stage else reversed(list(recipe.stages)):
        folder = run / "stages" / name
        if not checkpoints(folder):
            continue
        found, reasons = newest(folder)
        skipped += [f"stage {name}: {reason}" for reason in reasons]
        if found is not None:
            return found, skipped
    return None, skipped


def check_frozen(found: VerifiedCheckpoint, digests: Mapping[str, str]) -> None:
    """CheckpointError unless the frozen parts are those the checkpoint was trained on."""
    told = found.manifest.frozen
    other = sorted(name for name in {*told, *digests} if told.get(name) != digests.get(name))
    if other:
        raise CheckpointError(
            f"{found.path} was trained on other weights of {_listed(other)} than the recipe's paths now hold; put the "
            "old weights back, or train again into another folder"
        )


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
