"""Loads one part of a published checkpoint into its own class; the other parts' weights are never read into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from mmllm.errors import MmllmError
from mmllm.vlms.weightless import weightless


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
    with _quiet():  # its report names every tensor of the other parts as unexpected
        model, report = kind.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            key_mapping=dict(names),
            output_loading_info=True,
            **words,
        )
    lost = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lost:
        raise MmllmError(
            f"{path!r} lacks {len(lost)} weights of its {kind.__name__}, the first is {lost[0]}; "
            f"download the folder again"
        )
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Only errors of transformers are logged inside."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
