"""Loads one part of a published checkpoint into its own class; the other parts' weights are never read into memory."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from mmllm.errors import MmllmError
from mmllm.vlms.cast_weights import from_files
from mmllm.vlms.quiet import lost, quiet
from mmllm.vlms.weightless import weightless

NO_ADAPTER = "no-adapter"


def load_part(
    path: str,
    kind: type[PreTrainedModel],
    config: PretrainedConfig,
    names: Mapping[str, str],
    dtype: torch.dtype,
    words: Mapping[str, Any] = MappingProxyType({}),
) -> PreTrainedModel:
    """The model ``kind(config)`` with its weights from the checkpoint at ``path`` (safetensors only).

    ``names``: pattern of a tensor's name in the file -> the name's beginning in the part; transformers' own renaming
    of older files comes after it.

    Raises:
        MmllmError: a weight of the part is not in the file or has another shape.
    """
    if weightless():
        laid_out: PreTrainedModel = kind._from_config(config, dtype=dtype)
        return laid_out
    with quiet():
        cast = None if words else from_files(kind, path, config, dtype, key_mapping=dict(names))
        model, report = cast or kind.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            key_mapping=dict(names),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            # transformers puts a LoRA that lies beside a model into whatever it loads of it; none is in a folder of
            # that name
            adapter_kwargs={"subfolder": NO_ADAPTER},
            **words,
        )
    # transformers 5.23 keeps `key_mapping` and would turn it back on saving: a part saved by itself has its own names
    model._weight_conversions = []
    lacking = lost(report)
    if lacking:
        raise MmllmError(
            f"{path!r} lacks {len(lacking)} weights of its {kind.__name__}, the first is {lacking[0]}; "
            f"download the folder again"
        )
    return model
