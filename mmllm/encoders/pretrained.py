"""Loads models of transformers and their processors from a hub id or a folder; what fails says what to do.

Every encoder that is a model of transformers is loaded here, in float32 and from safetensors alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoTokenizer

from mmllm.errors import MmllmError
from mmllm.vlms.quiet import mismatched, quiet
from mmllm.vlms.tower import load_tower
from mmllm.vlms.vocabulary import AS_ANY_OTHER
from mmllm.vlms.weightless import weightless

_NOTHING_MISSING: dict[str, Any] = {"missing_keys": (), "mismatched_keys": ()}
BROKEN = (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError)
"""Errors that transformers raises where something cannot be loaded."""


def load_model(model: str, kind: str) -> tuple[Any, Any, dict[str, Any]]:
    """(configuration, model without its head, loading info) of a hub id or a folder.

    What the info says is missing or mismatched holds random numbers: whoever asks refuses it.

    Args:
        model: hub id or folder.
        kind: what the model is wanted as, for errors: ``a vision model``.

    Raises:
        MmllmError: it cannot be loaded.
    """
    try:
        config = AutoConfig.from_pretrained(model)
        if weightless():
            return config, AutoModel.from_config(config, dtype=torch.float32), _NOTHING_MISSING
        with quiet():
            loaded, info = AutoModel.from_pretrained(
                model,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except BROKEN as error:
        raise refused(model, kind, error) from error
    return config, loaded, {**info, "mismatched_keys": mismatched(info)}


def load_published(model: str, modality: str, kind: str, native: bool = False, clips: bool = False) -> Any:
    """The float32 tower of a published multimodal model; None where ``model`` is no such model.

    ``native``, ``clips``: see ``load_tower``.

    Raises:
        MmllmError: it cannot be loaded, or its tower is none for ``modality`` or of a kind that no encoder computes.
    """
    try:
        return load_tower(model, modality, native, clips)
    except BROKEN as error:
        raise refused(model, kind, error) from error


def load_tokenizer(model: str, kind: str) -> Any:
    """The tokenizer of a hub id or folder; MmllmError where it cannot be loaded."""
    try:
        return AutoTokenizer.from_pretrained(model, **AS_ANY_OTHER)
    except BROKEN as error:
        raise refused(model, kind, error) from error


def load_processor(auto: Any, model: str, what: str) -> Any:
    """What prepares ``what`` (pictures, sound) for a model: ``auto`` is the class of transformers that finds it.

    Raises:
        MmllmError: the folder has no preprocessor_config.json, or one that is broken or for other media.
    """
    try:
        return auto.from_pretrained(model)
    except BROKEN as error:
        folder = Path(model)
        file = folder / "preprocessor_config.json"
        if folder.is_dir() and not file.is_file():
            raise MmllmError(
                f"the folder {folder} has no preprocessor_config.json, which says how {what} is prepared for the "
                f"model; fetch it: hf download REPOSITORY preprocessor_config.json --local-dir {folder} (REPOSITORY: "
                "the one on the hub that the model is from)."
            ) from error
        said = _first_sentence(error)
        where = file if file.is_file() else f'the preprocessor_config.json of "{model}"'
        raise MmllmError(f"{where} does not say how {what} is prepared: {said}") from error


def refused(model: str, kind: str, error: Exception) -> MmllmError:
    """The error for a model that cannot be loaded as ``kind``."""
    folder = Path(model)
    start = f'"{model}" cannot be loaded as {kind} of transformers: '
    if not folder.exists() and (folder.is_absolute() or model.startswith(".") or model.count("/") > 1):
        return MmllmError(f"{start}there is no such folder.")
    if folder.is_dir() and not (folder / "config.json").is_file():
        found = ", ".join(sorted(os.listdir(folder))[:5]) or "nothing"
        return MmllmError(f"{start}the folder has no config.json; it holds {found}.")
    if list(folder.glob("pytorch_model*.bin")) and not list(folder.glob("*.safetensors")):
        return MmllmError(
            f"{start}its weights are pickled (pytorch_model.bin), which may run any code and is not read; if you trust "
            f'them, write them anew: python -c "from transformers import AutoModel as A; '
            f"A.from_pretrained('{model}').save_pretrained('{model}')\""
        )
    here = "" if folder.exists() else f" Nor is such a folder beside the recipe or in {Path.cwd()}."
    return MmllmError(f"{start}{_first_sentence(error)}{here}")


def _first_sentence(error: Exception) -> str:
    """The first sentence of a library's error, whose others list all that it knows."""
    line = str(error).strip().partition("\n")[0]
    return line.partition(". ")[0].rstrip(".") + "."
