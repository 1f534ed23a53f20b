"""Looks at an LLM's folder before anything is loaded, and says in one sentence why it cannot serve and what helps.

``load.py`` calls it first: transformers meets such folders with tracebacks, or with random weights and a log line.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from mmllm.errors import MmllmError
from mmllm.files.safetensors_files import DamagedError, tensors
from mmllm.files.tokenizers import FILES

PICKLES = ("pytorch_model*.bin", "*.pth", "*.pt", "consolidated*.pth")
RECURRENT = ("mamba", "linear_attention", "conv", "recurrent")
"""Words by which configs call blocks that carry a state from token to token."""
WITH_ADAPTER = ("granite_speech",)
"""``model_type`` of models whose folders hold a LoRA that works where there is media; ``load_part`` leaves it out."""
KEPT_APART = {"lfm2": ("conv",)}
"""``model_type`` -> kinds of such blocks that keep packed conversations apart here (``short_convolutions.py``)."""


def check_folder(folder: Path) -> None:
    """Refuse a local folder that holds no whole causal LM in safetensors.

    Raises:
        MmllmError: an adapter, pickled weights, files missing or cut off, no config, no tokenizer.
    """
    names = {file.name for file in folder.iterdir()}
    # whatever lies beside it: transformers would load the base model that it names, and the adapter into that
    if "adapter_config.json" in names and not _carries_adapter(folder):
        raise MmllmError(_adapter(folder))
    if "config.json" not in names:
        raise MmllmError(
            f"llm.path: {str(folder)!r} has no config.json; it holds {_some(names)}. Give the folder that "
            "save_pretrained wrote or `hf download` made"
        )
    _check_weights(folder)
    if not names & set(FILES):
        raise MmllmError(
            f"llm.path: {str(folder)!r} has no tokenizer (none of {', '.join(FILES[:4])}); copy the files of the "
            f"model it was made from: hf download MODEL --include 'tokenizer*' 'vocab*' 'merges*' 'special_tokens*' "
            f"--local-dir {shlex.quote(str(folder))}"
        )


def _carries_adapter(folder: Path) -> bool:
    """Whether it is a model beside whose weights its own adapter lies."""
    config = folder / "config.json"
    return config.is_file() and _json(config).get("model_type") in WITH_ADAPTER


def _adapter(folder: Path) -> str:
    """The sentence for PEFT's adapters, with the command that merges."""
    base = _json(folder / "adapter_config.json").get("base_model_name_or_path") or "its base model"
    code = (
        f"from peft import AutoPeftModelForCausalLM as M; M.from_pretrained({json.dumps(str(folder))})"
        '.merge_and_unload().save_pretrained("MERGED")'
    )
    return (
        f"llm.path: {str(folder)!r} is a PEFT adapter, not a model: its weights are changes to {base}. Merge it, copy "
        f"the tokenizer of {base} beside it and give llm.path MERGED: python -c {shlex.quote(code)}"
    )


def _check_weights(folder: Path) -> None:
    """Every weight file that the folder promises is there and whole."""
    index = folder / "model.safetensors.index.json"
    files = sorted(folder.glob("*.safetensors"))
    if index.is_file():
        shards = sorted(set(_json(index).get("weight_map", {}).values()))
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise MmllmError(
                f"llm.path: {str(folder)!r} lacks {len(missing)} of its {len(shards)} weight files, the first is "
                f"{missing[0]}; fetch it again: hf download MODEL {missing[0]} --local-dir {shlex.quote(str(folder))}"
            )
        files = [folder / name for name in shards]
    for file in files:
        _check_whole(file)
    if not files:
        raise MmllmError(_without_weights(folder))


def _without_weights(folder: Path) -> str:
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if not pickles:
        return (
            f"llm.path: {str(folder)!r} has a config.json but no weights (*.safetensors); fetch them: "
            f"hf download MODEL --local-dir {shlex.quote(str(folder))}"
        )
    code = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        f'M.from_pretrained({json.dumps(str(folder))}, dtype="auto").save_pretrained("CONVERTED"); '
        f'T.from_pretrained({json.dumps(str(folder))}).save_pretrained("CONVERTED")'
    )
    return (
        f"llm.path: {str(folder)!r} holds its weights as {pickles[0]}, a pickle, which could run code and is never "
        f"read here. Convert it once, if you trust it, and give llm.path CONVERTED: python -c {shlex.quote(code)}"
    )


def _check_whole(file: Path) -> None:
    """MmllmError where a safetensors file is cut off, a pointer or no such file."""
    try:
        tensors(file)
    except DamagedError as error:
        again = f"hf download MODEL {file.name} --local-dir {shlex.quote(str(file.parent))}"
        raise MmllmError(f"llm.path: {error}: {again}") from error


def check_kind(path: str, config: Any, causal: frozenset[str], masked: frozenset[str]) -> None:
    """Refuse what is no decoder of attention blocks, by its config.

    ``causal``, ``masked``: names of transformers' classes of the two kinds.

    Raises:
        MmllmError: an encoder, an encoder-decoder, or blocks that carry a state.
    """
    made = [str(name) for name in config.architectures or ()]
    name = made[0] if made else str(config.model_type)
    if config.is_encoder_decoder if hasattr(config, "is_encoder_decoder") else False:
        raise MmllmError(
            f"llm.path: {path!r} is an encoder-decoder ({name}); connectors need a causal LM, whose prompt and answer "
            "are one sequence. Give a decoder such as Llama, Qwen, Gemma or SmolLM"
        )
    if made and not causal.intersection(made) and masked.intersection(made):
        raise MmllmError(
            f"llm.path: {path!r} is an encoder ({name}), which fills gaps and cannot write an answer; give a causal "
            "LM. As an encoder of texts it can serve under encoders"
        )
    check_blocks(path, config)


def check_blocks(path: str, config: Any) -> None:
    """Refuse blocks that carry a state from token to token.

    Raises:
        MmllmError: there are such.
    """
    kept = KEPT_APART.get(config.get_text_config().model_type, ())
    kinds = [kind for kind in recurrent_kinds(config) if kind not in kept]
    if kinds:
        raise MmllmError(
            f"llm.path: {path!r} is a {config.model_type} with {', '.join(kinds)} blocks, whose state runs on from one "
            "conversation of a packed row into the next; give an LLM whose blocks are all attention"
        )


def recurrent_kinds(config: Any) -> list[str]:
    """Kinds of blocks in a config that carry a state from token to token."""
    words = vars(config.get_text_config())
    layers = [str(kind) for kind in [*(words.get("layer_types") or ()), *(words.get("block_types") or ())]]
    found = {kind for kind in layers if any(word in kind for word in RECURRENT)}
    # families without a list of their blocks have sizes of the state: mamba_d_state, state_size, ssm_state_size, rwkv's
    if not found and any(word in words for word in ("state_size", "mamba_d_state", "ssm_state_size", "rescale_every")):
        found = {"state-space"}
    return sorted(found)


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MmllmError(f"llm.path: {file} cannot be read as JSON ({error}); fetch it again") from error
    return found if isinstance(found, dict) else {}


def _some(names: set[str]) -> str:
    shown = sorted(names)[:4]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "") if shown else "nothing"
