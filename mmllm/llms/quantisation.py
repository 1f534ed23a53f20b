"""``llm: {quantize: ...}``: the frozen LLM's linear layers in 8 or 4 bits, by bitsandbytes; called by ``load.py``.

Gradients pass through to connectors and LoRA as in QLoRA (Dettmers et al. 2023, arXiv:2305.14314). ``nf4`` keeps 4 bits
of each weight and computes with them unpacked; ``int8`` (LLM.int8, Dettmers et al. 2022, arXiv:2208.07339) keeps 8 and
rounds what enters a layer to 8 bits as well; ``int8_weight_only`` keeps the same 8 bits and computes as the LLM does.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmllm.errors import MmllmError
from mmllm.llms.int8_linear import Int8Linear

WEIGHT_BYTES: Mapping[str, float] = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0, "int8_weight_only": 1.0}
"""Word of the recipe -> bytes of one weight: in ``nf4`` with its scales, one of 8 bits for 64 weights, themselves
scaled."""
TOLERANCE: Mapping[str, float] = {"int8": 1e-1}
"""Largest difference of its passes from its own forward, as a share of the largest logit, where it is not that of a
plain LLM: rounding of activations to 8 bits turns the last bits of a sum into a step."""

MOST = 127
"""Integer that stands for a row's largest weight, which bitsandbytes keeps as its scale."""


def loading_words(word: str | None, dtype: torch.dtype, device: torch.device | str | None) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` for a quantised model; none for a plain one.

    Raises:
        MmllmError: bitsandbytes is not installed, or does not work on this device.
    """
    if word is None:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MmllmError(
            f'llm.quantize: {word} needs the package bitsandbytes; install it with: pip install "mmllm[quantize]"'
        )
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.device(device).type
    if kind not in ("cuda", "cpu"):
        raise MmllmError(f"llm.quantize: {word} works on GPUs of CUDA and on CPUs, not on {kind}; leave it out")
    # it says in every pass that float32 becomes float16 on the way into 8 bits
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    from transformers import BitsAndBytesConfig

    place = {"device_map": {"": str(device)}}
    if word != "nf4":
        # without a threshold for outliers: those would be computed in 16 bits, on whatever rows they occur
        return {**place, "quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)}
    four = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {**place, "quantization_config": four}


def computes_as_loaded(model: nn.Module, word: str | None) -> None:
    """Let layers keep their weights as they are, and compute as ``word`` says.

    On a CPU with AVX512-BF16, bitsandbytes (0.50.2) repacks 4-bit weights in the first pass without gradients, and
    later passes give none: what learns before such a layer would get its gradient around it alone.
    """
    if word == "int8_weight_only":
        _leave_activations(model)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _leave_activations(model: nn.Module) -> None:
    """Put layers that take activations as they are in place of those of LLM.int8, around the same weights."""
    from bitsandbytes.nn import Linear8bitLt

    found = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, Linear8bitLt)]
    for name, layer in found:
        parent, _, child = name.rpartition(".")
        weight: Any = layer.weight
        plain = Int8Linear.of(weight.data, weight.SCB.float() / MOST, layer.bias)
        model.get_submodule(parent).register_module(child, plain)


def is_quantised(module: nn.Module) -> bool:
    """Whether weights of a module are packed integers, which cannot learn."""
    return any(not parameter.is_floating_point() for parameter in module.parameters())
