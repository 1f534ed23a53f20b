"""The JSON files of a folder in save_pretrained format, and tables of installed libraries, read by their source text.

Importing transformers' tables of models or open_clip would import torch; both are plain literals in one file each.
"""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmllm.errors import MmllmError

INNER = ("text_config", "llm_config", "language_config", "thinker_config")
"""Keys under which configs of multimodal models hold that of their LLM."""
_MORE_EMBEDDINGS = {"mllama_text_model": 8}
"""Kind of LLM with cross-attention among its blocks -> embeddings that it has besides those of ``vocab_size``."""
_LLMS = ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",)
_MULTIMODAL = (
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
)


class UnreadableError(MmllmError):
    """A file of a model's folder that is missing or no JSON object."""


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; UnreadableError where the file is missing, damaged or holds something else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnreadableError(f"{file.parent} has no {file.name}") from error
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{file} cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise UnreadableError(f"{file} holds no JSON object")
    return found


def llm_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The LLM's own part of a config: that of a multimodal model lies one or two levels down."""
    for name in INNER:
        if isinstance(config.get(name), dict):
            return llm_config(config[name])
    return _as_loaded(config)


def _as_loaded(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """An LLM's config as it is loaded here: blocks of cross-attention are a connector's, all embeddings count."""
    more, blocks = _MORE_EMBEDDINGS.get(str(config.get("model_type"))), config.get("cross_attention_layers")
    if more is None or not isinstance(blocks, list):
        return config
    depth, rows = number(config, "num_hidden_layers") or 0, number(config, "vocab_size") or 0
    return {**config, "num_hidden_layers": depth - len(blocks), "vocab_size": rows + more}


def number(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of several names that a config has a whole number for; None where it has none."""
    found = (config.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), None)


@lru_cache(maxsize=1)
def llm_types() -> tuple[frozenset[str], frozenset[str]]:
    """(``model_type`` of causal LMs, of multimodal models with one) that the installed transformers knows.

    Both empty where its file is laid out otherwise (read in 5.23): then nothing can be said.
    """
    tree = _source("transformers", "models", "auto", "modeling_auto.py")
    found: dict[str, frozenset[str]] = {}
    for node in tree.body if tree else []:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Call):
            name = node.targets[0].id
            pairs = node.value.args[0] if node.value.args else None
            if name in (*_LLMS, *_MULTIMODAL) and isinstance(pairs, ast.List):
                found[name] = frozenset(
                    pair.elts[0].value
                    for pair in pairs.elts
                    if isinstance(pair, ast.Tuple)
                    and isinstance(pair.elts[0], ast.Constant)
                    and isinstance(pair.elts[0].value, str)
                )
    empty: frozenset[str] = frozenset()
    return empty.union(*(found.get(name, empty) for name in _LLMS)), empty.union(
        *(found.get(name, empty) for name in _MULTIMODAL)
    )


@lru_cache(maxsize=1)
def open_clip_models() -> frozenset[str]:
    """Model names of the installed open_clip: its config files."""
    root = _root("open_clip")
    return frozenset(file.stem for file in (root / "model_configs").glob("*.json")) if root else frozenset()


@lru_cache(maxsize=1)
def open_clip_tags() -> dict[str, dict[str, str]]:
    """Model -> tag -> repository of the hub (empty: another address) of the installed open_clip's weights."""
    tree = _source("open_clip", "pretrained.py")
    assigned = {
        node.targets[0].id: node.value
        for node in (tree.body if tree else [])
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    table = assigned.get("_PRETRAINED")
    found: dict[str, dict[str, str]] = {}
    for key, value in zip(table.keys, table.values, strict=True) if isinstance(table, ast.Dict) else []:
        tags = assigned.get(value.id) if isinstance(value, ast.Name) else value
        if isinstance(key, ast.Constant) and isinstance(tags, ast.Call):
            found[str(key.value)] = {word.arg: _hub_of(word.value) for word in tags.keywords if word.arg}
    return found


def _hub_of(entry: ast.expr) -> str:
    """``hf_hub`` of one entry, without the file name that may follow the repository's."""
    for word in entry.keywords if isinstance(entry, ast.Call) else []:
        if word.arg == "hf_hub" and isinstance(word.value, ast.Constant):
            return "/".join(str(word.value.value).split("/")[:2])
    return ""


@lru_cache(maxsize=1)
def monitor_words() -> dict[str, tuple[str, ...]]:
    """Name of a recipe's ``monitor:`` block -> words that the installed DeepSpeed has for it."""
    tree = _source("deepspeed", "monitor", "config.py")
    classes = {"TensorBoardConfig": "tensorboard", "WandbConfig": "wandb", "CSVConfig": "csv", "CometConfig": "comet"}
    return {
        classes[node.name]: tuple(
            word.target.id
            for word in node.body
            if isinstance(word, ast.AnnAssign) and isinstance(word.target, ast.Name)
        )
        for node in (tree.body if tree else [])
        if isinstance(node, ast.ClassDef) and node.name in classes
    }


def _root(package: str) -> Path | None:
    """Folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def _source(package: str, *file: str) -> ast.Module | None:
    root = _root(package)
    try:
        return ast.parse(root.joinpath(*file).read_text(encoding="utf-8")) if root else None
    except (OSError, SyntaxError):
        return None
