"""Weights in another dtype than their files': read without mapping these, whose pages would stand beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from mmllm.errors import MmllmError
from mmllm.vlms.tensors import weight_files

STORED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Word of safetensors -> dtype."""
ADAPTER = "adapter_config.json"


def from_files(
    kind: type[PreTrainedModel], path: str, config: PretrainedConfig, dtype: torch.dtype, **words: Any
) -> tuple[PreTrainedModel, dict[str, Any]] | None:
    """What ``kind.from_pretrained`` gives of a model and its loading info; None where mapping its files is as good.

    That is where they hold ``dtype``, and where transformers itself has to find them: it says why they are not there,
    and puts an adapter that lies beside a model into it. transformers 5.23 maps all files until the last tensor is
    cast, so that a model in bfloat16 took half as much again as it has in float32.
    """
    if Path(path).is_dir() and (Path(path) / ADAPTER).exists():
        return None
    try:
        files = [safe_open(str(file), framework="pt", backend="pread") for file in weight_files(path)]
    except (MmllmError, OSError, SafetensorError):
        return None
    stored = {name: file.get_slice(name) for file in files for name in file.keys()}
    if all(STORED.get(one.get_dtype(), dtype) == dtype for one in stored.values()):
        return None
    model, report = kind.from_pretrained(
        None,
        config=config,
        state_dict=stored,
        dtype=dtype,
        generation_config=_generation(path),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **words,
    )
    model.config.name_or_path = model.name_or_path = path
    return model, report


def _generation(path: str) -> GenerationConfig | None:
    """That of the folder; None: what transformers makes of the model's configuration."""
    try:
        found: GenerationConfig = GenerationConfig.from_pretrained(path)
    except OSError:
        return None
    return found
