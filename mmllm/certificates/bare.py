"""The language model by itself, as its folder has it: loaded once more by transformers, beside the one in use."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mmllm.llms.gguf_file import find_gguf
from mmllm.llms.load import load_llm
from mmllm.recipe.models import Llm
from mmllm.vlms.families import family_of
from mmllm.vlms.quiet import quiet
from mmllm.vlms.vocabulary import AS_ANY_OTHER

FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", "*.gguf")
"""What of a folder makes a language model."""


def load_bare(
    spec: Llm, dtype: torch.dtype, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """Model, tokenizer, and by what they were loaded.

    By transformers' own classes where it knows the folder as a causal LM. Of published multimodal models it is the text
    model, which only this project takes out; GGUF files are unpacked and quantised models rounded as in use.
    """
    path = str(spec.path)
    if find_gguf(path, spec.file) is None and spec.quantize is None:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        if family_of(config) is None and config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            with quiet():
                model: Any = AutoModelForCausalLM.from_pretrained(
                    path, dtype=dtype, use_safetensors=True, trust_remote_code=False
                )
            tokenizer: Any = AutoTokenizer.from_pretrained(path, **AS_ANY_OTHER)
            model = model.to(device).requires_grad_(False).eval()
            return model, tokenizer, "transformers.AutoModelForCausalLM and AutoTokenizer"
    word = str(dtype).removeprefix("torch.")
    model, tokenizer = load_llm(path, word, file=spec.file, quantize=spec.quantize, device=device)
    model = model.requires_grad_(False).eval()
    return (model if spec.quantize else model.to(device)), tokenizer, "mmllm.llms.load.load_llm"


def file_digests(path: str) -> dict[str, str]:
    """Name -> sha256 of the files of a local folder or of one file; nothing of what lies on the hub alone."""
    place = Path(path)
    files = [place] if place.is_file() else [one for kind in FILES for one in place.glob(kind)]
    found = {}
    for file in sorted(files):
        with file.open("rb") as opened:
            found[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found
