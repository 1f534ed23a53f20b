"""GGUF file -> a folder with safetensors and tokenizer, made once and kept; ``load.py`` then loads it like any other.

The folder lies in ``$MMLLM_CACHE/gguf``, by default ``~/.cache/mmllm/gguf``, under the digest of the file's bytes, so
a changed file is a new entry. Ranks of one machine wait for the one that converts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mmllm.errors import MmllmError
from mmllm.llms.folders import check_blocks, check_folder
from mmllm.llms.gguf_config import check_config, check_weights, correct_config
from mmllm.llms.gguf_file import BROKEN, GgufFile, read_gguf
from mmllm.llms.gguf_tokenizer import load_tokenizer
from mmllm.vlms.quiet import lost, quiet

LOG = logging.getLogger(__name__)
FORM = 1
"""Counts up when the conversion itself changes, so that entries of an older one are made anew."""
CHUNK = 1 << 22
"""Bytes hashed at a time."""


def cache_root() -> Path:
    """Folder for what can be made again: ``$MMLLM_CACHE``, else ``~/.cache/mmllm``."""
    return Path(os.environ.get("MMLLM_CACHE") or Path.home() / ".cache" / "mmllm")


@contextmanager
def dequantised(path: Path, dtype: torch.dtype, cache: Path | None = None) -> Iterator[Path]:
    """Folder with the model of a GGUF file in safetensors of ``dtype``, its tokenizer and chat template.

    ``cache``: where entries are kept instead of :func:`cache_root`. Where nothing can be written there, the model is
    converted into a temporary folder each time, and a warning says so.

    Raises:
        MmllmError: the file is damaged, or of a kind that transformers cannot read as it is.
    """
    root = (cache_root() if cache is None else cache) / "gguf"
    entry = root / f"{path.stem}-{_digest(path, dtype)}"
    with ExitStack() as stack:
        if not _usable(entry):
            try:
                root.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(f"{entry}.lock"))
                if not _usable(entry):
                    _keep(path, dtype, entry)
            except OSError as error:
                LOG.warning(
                    "%s: %s cannot keep the model of %s, so it is converted anew each time; set MMLLM_CACHE to a "
                    "folder with room",
                    error.strerror or error,
                    root,
                    path,
                )
                entry = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmllm-gguf-")))
                _convert(path, dtype, entry)
        yield entry


def _digest(path: Path, dtype: torch.dtype) -> str:
    """Key of an entry: the file's bytes, the dtype, and what converts it."""
    total = hashlib.sha256(f"{FORM} {transformers.__version__} {dtype}".encode())
    with path.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            total.update(chunk)
    beside = path.parent / "tokenizer.json"
    if beside.is_file():
        total.update(beside.read_bytes())
    return total.hexdigest()[:32]


def _usable(entry: Path) -> bool:
    """Whether an entry is there and whole; one that somebody cut off is made anew."""
    if not entry.is_dir():
        return False
    try:
        check_folder(entry)
    except MmllmError:
        return False
    return True


def _keep(path: Path, dtype: torch.dtype, entry: Path) -> None:
    """Convert beside the entry and move it there whole."""
    LOG.info("converting %s to %s, once", path, entry)
    with tempfile.TemporaryDirectory(dir=entry.parent, prefix=f"{entry.name}.tmp-") as beside:
        made = Path(beside) / "model"
        _convert(path, dtype, made)
        if entry.exists():  # damaged, see _usable
            shutil.rmtree(entry)
        os.replace(made, entry)


def _convert(path: Path, dtype: torch.dtype, folder: Path) -> None:
    """Write the folder and compare it with the file's keys."""
    file = read_gguf(path)
    try:
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        check_blocks(str(path), config)
        correct_config(config, file)
        with quiet():
            model, report = AutoModelForCausalLM.from_pretrained(
                path.parent,
                gguf_file=path.name,
                config=config,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        tokenizer = load_tokenizer(file)
    except (*BROKEN, ImportError) as error:
        raise MmllmError(
            f"llm.path: {str(path)!r}, a GGUF file of architecture {file.architecture}, cannot be loaded by "
            f"transformers {transformers.__version__} ({str(error).strip().splitlines()[0]}); take the model's "
            "safetensors"
        ) from error
    lacking = lost(report)
    if lacking:
        raise MmllmError(
            f"llm.path: {str(path)!r} lacks {len(lacking)} weights of its model, the first is {lacking[0]}"
        )
    check_weights(sum(weight.numel() for weight in model.parameters()), file)
    with quiet():
        _saveable(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    check_config(AutoConfig.from_pretrained(folder), file)
    (folder / "gguf.json").write_text(json.dumps(_origin(file, dtype), indent=1), encoding="utf-8")


def _saveable(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that was not loaded from GGUF: transformers (5.23) refuses to save one that was."""
    config = type(model.config).from_dict(
        {word: value for word, value in model.config.to_dict().items() if word != "quantization_config"}
    )
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    return plain.to(model.dtype)


def _origin(file: GgufFile, dtype: torch.dtype) -> dict[str, Any]:
    """What an entry was made from, for people who look into the cache."""
    return {
        "file": str(file.path.resolve()),
        "architecture": file.architecture,
        "dtype": str(dtype).removeprefix("torch."),
        "transformers": transformers.__version__,
    }
