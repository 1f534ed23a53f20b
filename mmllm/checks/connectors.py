"""Connectors: files that they name, and the LLM's blocks that they are put into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmllm import registry
from mmllm.checks.places import local_arguments, missing, model_files
from mmllm.checks.report import Report
from mmllm.recipe import part_arguments, yaml_lines

_TOKENIZER = ("tokenizer.json", "vocab.txt", "tokenizer.model")
_BLOCKS = {
    "InnerAdaptorConnector": "after",
    "IvaConnector": "blocks",
    "SeriesAdapterConnector": "blocks",
    "ParallelAdapterConnector": "blocks",
    "LayerwiseConnector": "layers",
    "CrossAttentionLayersConnector": "before",
}
"""Class -> its argument that lists blocks of the LLM, counted from 0."""
_BEHIND = ("CrossAttentionLayersConnector",)
"""Classes of which one more number means the place behind the last block."""


def check_connector(key: str, type: str, args: Mapping[str, Any], n_blocks: int | None, report: Report) -> None:
    """Look at what a connector's arguments name; ``n_blocks`` of the LLM, None where that is not known."""
    path: yaml_lines.Path = ("connectors", key)
    for name, value in local_arguments("connectors", type, args).items():
        lost = missing(value)
        if lost:
            report.error((*path, name), lost)
    if "QFormerConnector" in registry.bases("connectors", type) and isinstance(args.get("tokenizer"), str):
        _tokenizer(args["tokenizer"], str(args.get("subfolder", "")), (*path, "tokenizer"), report)
    if n_blocks is None or not part_arguments.works_inside(type):
        return
    for base in registry.bases("connectors", type):
        blocks = args.get(_BLOCKS.get(base, ""))
        for block in blocks if isinstance(blocks, list | tuple) else ():
            if not 0 <= block < n_blocks + (base in _BEHIND):
                report.error((*path, _BLOCKS[base]), f"found {block}, and the LLM has the blocks 0 to {n_blocks - 1}")


def _tokenizer(value: str, subfolder: str, path: yaml_lines.Path, report: Report) -> None:
    """A folder with a tokenizer, or a repository of the hub."""
    found = model_files(value, path, report)
    if found is None or found.origin == "cached":
        return
    place = found.path / subfolder
    if not any((place / name).is_file() for name in _TOKENIZER):
        report.error(path, f"{place} holds no tokenizer ({' or '.join(_TOKENIZER)})")
