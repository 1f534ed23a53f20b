"""Open a run folder: its resolved recipe and the newest checkpoint that verifies, put into a fresh model.

Everything right of training (generate, eval, serve) gets its model here; ``store`` knows the folder itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmllm.checkpoints.code_trust import check_code
from mmllm.checkpoints.digest_cache import DigestCache, frozen
from mmllm.checkpoints.store import LEARNED, VerifiedCheckpoint, checkpoints, newest, read_tensors
from mmllm.errors import CheckpointError, RecipeError
from mmllm.llms.load import resolve_dtype
from mmllm.model.build import build
from mmllm.model.input_digests import input_digests
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import load_trainable
from mmllm.recipe.load import digest, load_recipe, parse
from mmllm.recipe.models import Recipe
from mmllm.recipe.shaping import FREE, IMPORTED, LLM_WORDS, changes, listed, shaping


@dataclass(frozen=True)
class Trust:
    """What of a changed or foreign run is taken as it is."""

    changed: bool = False
    """Go on where tokenizer, chat template, preprocessing or data are others than in training, and log it."""
    verify: bool = False
    """Hash the frozen weights anew, instead of trusting files that have not changed since they were hashed."""
    code: bool = False
    """Import classes (``module:Class``) that neither belong to an installed package nor to a run trained here."""


def load_run(
    run: Path,
    device: torch.device | str | None = None,
    stage: str | None = None,
    overrides: Sequence[str] = (),
    trust: Trust | None = None,
) -> tuple[Recipe, MultimodalLM]:
    """The recipe of a run folder and its model in eval mode with the learned weights.

    Args:
        run: the folder.
        device: where to.
        stage: of that stage instead of the last one that has a checkpoint.
        overrides: ``path=value`` for what did not shape the weights: ``eval``, ``serve``, ``llm.context``, paths.
        trust: what of a changed or foreign run is taken as it is.

    Logs a warning for every damaged checkpoint it skips. Raises CheckpointError: no run, no usable checkpoint, or
    other frozen parts, inputs or recipe than it was trained with.
    """
    trust = trust or Trust()
    recipe, told, found = open_checkpoint(run, stage, overrides, trust)
    model = build(told, device)
    check_frozen(found, frozen(model, told, DigestCache(run, trust.verify), found.manifest.frozen))
    check_inputs(found, input_digests(model), trust.changed)
    load_trainable(model, read_tensors(found.path / LEARNED), later=found.manifest.frozen)
    cast_as_said(model, recipe, told)
    model.recipe = recipe
    return recipe, model.eval()


def open_checkpoint(
    run: Path, stage: str | None, overrides: Sequence[str], trust: Trust
) -> tuple[Recipe, Recipe, VerifiedCheckpoint]:
    """The recipe of a run folder with its overrides, the same as it was trained, and the checkpoint; no part is loaded.

    Arguments and errors as :func:`load_run` has them.
    """
    check_code(run, trust.code)  # before the recipe's checks, which import classes to read their arguments
    recipe = run_recipe(run)
    found, skipped = last_checkpoint(run, recipe, stage)
    for sentence in skipped:
        logging.getLogger(__name__).warning(sentence)
    if found is None:
        why = f" ({'; '.join(skipped)})" if skipped else ""
        what = f"no checkpoint of stage {stage}" if stage else "no checkpoint"
        raise CheckpointError(f"{run} has {what} that can be used{why}; train it: mmllm train {run / 'recipe.yaml'}")
    check_recipe(found, recipe, str(run / "recipe.yaml"))
    recipe = _overridden(run, recipe, found.manifest.stage, overrides)
    told = _as_trained(recipe, found)
    if recipe.llm.quantize is not None and _is_recast(recipe, told):
        raise RecipeError(
            f"{run}: llm.dtype was {told.llm.dtype} in training, is {recipe.llm.dtype}; weights of llm.quantize cannot "
            "be cast: leave llm.dtype as it was"
        )
    return recipe, told, found


def cast_as_said(model: MultimodalLM, recipe: Recipe, told: Recipe) -> None:
    """Let the frozen parts compute in the dtype that ``recipe`` says, where it is another than the training's."""
    if _is_recast(recipe, told):
        model.cast(resolve_dtype(recipe.llm.dtype))


def _is_recast(recipe: Recipe, told: Recipe) -> bool:
    return recipe.llm.dtype not in ("auto", told.llm.dtype)


def _as_trained(recipe: Recipe, found: VerifiedCheckpoint) -> Recipe:
    """The recipe with the dtype of the training: digests of frozen weights are those of weights in that dtype."""
    dtype = ((found.manifest.shaping or {}).get("llm") or {}).get("dtype", recipe.llm.dtype)
    return recipe.model_copy(update={"llm": recipe.llm.model_copy(update={"dtype": dtype})})


def _overridden(run: Path, recipe: Recipe, stage: str, overrides: Sequence[str]) -> Recipe:
    """The recipe with overrides that leave alone what shaped the weights; RecipeError for others."""
    if not overrides:
        return recipe
    wanted = load_recipe(run / "recipe.yaml", overrides)
    found = changes(shaping(recipe, stage, finished=True), shaping(wanted, stage, finished=True))
    if found:
        raise RecipeError(f"{run}: {listed(found)}; what shaped the weights of a finished run stays: free are {FREE}")
    return wanted


def check_recipe(found: VerifiedCheckpoint, recipe: Recipe, where: str) -> None:
    """CheckpointError unless the recipe in ``where`` says of the weights what it said when they were trained."""
    told = found.manifest
    if told.shaping is None:  # of 0.1: only the digest of all of it
        # as it is written: paths that were found beside it are no part of what was digested
        if told.recipe != digest(parse(Path(where).read_text(encoding="utf-8"), file=where)):
            raise CheckpointError(
                f"{found.path} was trained with another recipe than {where} now holds, and by a version that did not "
                "write down which words differ; put the old one back, and give eval, serve and paths as path=value"
            )
        return
    llm = {word: value for word, value in told.shaping["llm"].items() if word not in LLM_WORDS}
    differing = changes({**told.shaping, "llm": llm}, shaping(recipe, told.stage, finished=True))
    if differing:
        raise CheckpointError(
            f"{found.path} was trained with another recipe than {where} now holds: {listed(differing)}; put the old "
            f"value back (free in a finished run: {FREE})"
        )


def check_inputs(found: VerifiedCheckpoint, digests: Mapping[str, str], accept: bool) -> list[str]:
    """CheckpointError where tokenizer, template, preprocessing or data are others than in training.

    ``accept``: log it and go on. Returns what differs; of older checkpoints, which say nothing, nothing.
    """
    told = found.manifest.inputs
    # a checkpoint that says nothing of positions is of an LLM that counted them one after the other
    known = told.keys() | {"positions"} if told else told.keys()
    other = [name for name in digests if name in known and told.get(name) != digests[name]]
    if other and not accept:
        raise CheckpointError(
            f"{found.path} was trained with another {_listed(other)} than there is now; put the old one back, or go on "
            "with --accept changed"
        )
    for name in other:
        logging.getLogger(__name__).warning("%s is another than %s was trained with: accepted", name, found.path)
    return other


def find_run(run: str | Path, **hub: Any) -> Path:
    """The run folder itself, or a local copy of the hub's repository ``user/name`` where there is no such folder.

    ``hub``: arguments of ``huggingface_hub.snapshot_download``.
    """
    if not isinstance(run, str | os.PathLike):
        raise CheckpointError(f"a run is a folder's path or a name of the hub, found {run!r}.")
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
    """The newest verified checkpoint of the last stage that has one (or of ``stage``), and why others were skipped.

    Before the first stage of an imported run are the weights as they were published.
    """
    known = [*([IMPORTED] if (run / "stages" / IMPORTED).is_dir() else []), *recipe.stages]
    if stage is not None and stage not in known:
        raise CheckpointError(f"{run} has no stage {stage!r}; its stages are {', '.join(known)}")
    skipped: list[str] = []
    for name in [stage] if stage else reversed(known):
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
