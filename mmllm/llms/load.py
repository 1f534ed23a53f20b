"""``llm:`` of a recipe -> model and tokenizer of transformers: a folder, a hub id, a GGUF file or a published VLM.

``CausalLM.load`` wraps what comes out. Weights are read from safetensors and GGUF only, remote code never runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from mmllm.errors import MmllmError
from mmllm.llms.folders import check_folder, check_kind
from mmllm.llms.gguf_cache import dequantised
from mmllm.llms.gguf_file import find_gguf
from mmllm.llms.partitioned import load_partitioned
from mmllm.llms.quantisation import computes_as_loaded, loading_words
from mmllm.messages.chat_templates import set_template
from mmllm.vlms.cast_weights import from_files
from mmllm.vlms.families import family_of, known
from mmllm.vlms.quiet import lost, quiet
from mmllm.vlms.text_model import chat_template_of, load_text_model
from mmllm.vlms.vocabulary import AS_ANY_OTHER
from mmllm.vlms.weightless import weightless

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Word of the recipe -> dtype; ``auto`` is resolved by :func:`resolve_dtype`."""


def resolve_dtype(word: str) -> torch.dtype:
    """``auto`` is bfloat16 on a GPU that has it, else float32 (bfloat16 is 8-10x slower on most CPUs)."""
    if word == "auto":
        return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return DTYPES[word]


def load_llm(
    path: str,
    dtype: str = "auto",
    *,
    file: str | None = None,
    template: str | None = None,
    partition: Mapping[str, Any] | None = None,
    quantize: str | None = None,
    device: torch.device | str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer at ``path``: a folder, a hub id, a ``.gguf`` file or a folder with one.

    ``file`` chooses among several GGUF files; ``template`` is a named chat template or a jinja file in place of the
    tokenizer's. ``partition``: DeepSpeed's configuration under which each rank gets its part of every weight, where
    the model's files allow it; else every rank loads all of them, as without. ``quantize``: nf4, int8 or
    int8_weight_only, for ``device``.

    Raises:
        MmllmError: nothing there, not a causal LM, weights missing in the files, or a template that does not fit.
    """
    gguf = find_gguf(path, file)
    wanted = resolve_dtype(dtype)
    words = {} if weightless() else loading_words(quantize, wanted, device)
    if gguf is not None:
        if weightless():
            raise MmllmError(
                f"llm.path: {str(gguf)!r} is a GGUF file, which has no config.json to plan from; plan with the folder "
                "of the model it was made of"
            )
        with dequantised(gguf, wanted) as folder:
            # transformers reads some families' tokenizers by a class with special tokens of its own, whatever was saved
            model, tokenizer = _loaded(str(folder), wanted, PreTrainedTokenizerFast, words=words)
    else:
        if Path(path).is_dir() and not weightless():  # a plan needs no weights to be there
            check_folder(Path(path))
        model, tokenizer = _loaded(path, wanted, partition=partition, words=words)
    if template is not None:
        set_template(tokenizer, template)
    computes_as_loaded(model, None if weightless() else quantize)
    return model, tokenizer


def _loaded(
    path: str,
    dtype: torch.dtype,
    kind: Any = AutoTokenizer,
    partition: Mapping[str, Any] | None = None,
    words: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, which is read by the class ``kind``; ``words``: more for ``from_pretrained``."""
    try:
        lacking: list[str] = []
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        check_kind(path, config, CAUSAL, MASKED)
        family = family_of(config)
        if family is not None:
            model = load_text_model(path, config, family, dtype, words)
        else:
            _check_causal(path, config)
            model, lacking = _causal(path, dtype, config, partition, words)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise MmllmError(
            f"llm.path: {path!r} cannot be loaded ({_reason(path, error)}); give a folder in save_pretrained format "
            "with safetensors and a tokenizer, a .gguf file, or the id of a causal LM on the Hugging Face hub"
        ) from error
    # transformers draws what a file lacks at random and only logs it
    if lacking:
        raise MmllmError(f"llm.path: {path!r} lacks {len(lacking)} weights of its model, the first is {lacking[0]}")
    tokenizer = _tokenizer(path, kind)
    own = chat_template_of(path, tokenizer)
    if own is not None:
        tokenizer.chat_template = own
    return model, tokenizer


def _tokenizer(path: str, kind: Any) -> PreTrainedTokenizerBase:
    try:
        words = AS_ANY_OTHER if kind is AutoTokenizer else {}
        found: PreTrainedTokenizerBase = kind.from_pretrained(path, **words)
    except Exception as error:  # the tokenizers package raises nothing narrower on a damaged file
        raise MmllmError(
            f"llm.path: the tokenizer of {path!r} cannot be read ({_reason(path, error)}); fetch its files again: "
            "hf download MODEL --include 'tokenizer*' 'vocab*' 'merges*' 'special_tokens*' --local-dir FOLDER"
        ) from error
    return found


def _causal(
    path: str, dtype: torch.dtype, config: Any, partition: Mapping[str, Any] | None, words: Mapping[str, Any]
) -> tuple[PreTrainedModel, list[str]]:
    """The causal LM and the names of weights that the files do not have."""
    if partition is not None:
        partitioned = load_partitioned(path, config, dtype, partition)
        if partitioned is not None:
            return partitioned, []
    if weightless():
        return AutoModelForCausalLM.from_config(config, dtype=dtype), []
    with quiet():
        kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        cast = None if words or kind is None else from_files(kind, path, config, dtype)
        model, report = cast or AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **words,
        )
    return model, lost(report)


def _check_causal(path: str, config: Any) -> None:
    """Refuse models of transformers that are no causal LM; remote code is left for transformers to refuse."""
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return
    name = (config.architectures or [config.model_type])[0]
    if config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise MmllmError(
            f"llm.path: {path!r} is a {name}; the text models of these published models are known: {known()}. Give one "
            "of them, or a causal LM of its own"
        )
    if config.model_type in MODEL_MAPPING_NAMES:
        raise MmllmError(f"llm.path: {path!r} is a {name}, which is no causal LM and cannot write text; give one")


def _reason(path: str, error: Exception) -> str:
    # a path with folders that is not here: what the hub says of its form would only lead away from that
    if not Path(path).exists() and (path.count("/") != 1 or path.startswith((".", "~"))):
        return f"there is no such folder; a path is meant from the current folder, {Path.cwd()}"
    first = str(error).strip().split("\n")[0]
    # what has the form of a name on the hub may be a folder that was meant from elsewhere
    return first if Path(path).exists() else f"{first}; nor is such a folder beside the recipe or in {Path.cwd()}"


CAUSAL = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
MASKED = frozenset(MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()) | {
    MODEL_MAPPING_NAMES[kind]
    for kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if isinstance(MODEL_MAPPING_NAMES.get(kind), str)
}
"""Classes of encoders: with the head that fills gaps, and without."""
