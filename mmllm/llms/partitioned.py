"""Loads a causal LM under DeepSpeed's ZeRO-3 so that no rank ever holds all of it; called by ``load.py``.

The model is made under ``deepspeed.zero.Init``, which leaves each rank its part of every weight, and each rank then
reads that part alone out of the files. ZeRO: Rajbhandari et al. 2020, arXiv:1910.02054.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from mmllm.hooks import Handle
from mmllm.hooks.shards import is_split, whole
from mmllm.vlms.tensors import weight_files


def load_partitioned(
    path: str, config: PretrainedConfig, dtype: torch.dtype, settings: Mapping[str, Any]
) -> PreTrainedModel | None:
    """The causal LM at ``path``, of each weight this rank's part; None where its files name weights otherwise.

    Every rank calls it. ``settings``: DeepSpeed's configuration of the training, ZeRO stage 3.
    """
    files = weight_files(path)
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        outline = kind(config)
    outline.tie_weights()
    tied = {id(tensor): name for name, tensor in outline.named_parameters()}
    stored = {name for file in files for name in _names(str(file))}
    everything = outline.named_parameters(remove_duplicate=False)
    filled = {tied[id(tensor)] for name, tensor in everything if name in stored}  # of tied ones one is enough
    if filled != set(tied.values()) or {name for name, _ in outline.named_buffers()} & stored:
        return None
    model = _made(kind, config, dtype, settings)
    _fill(model, [str(file) for file in files])
    return model.eval()


def _made(kind: Any, config: PretrainedConfig, dtype: torch.dtype, settings: Mapping[str, Any]) -> PreTrainedModel:
    """The model with weights of no content, partitioned as they are made."""
    # held while the model is made: transformers keeps only a weak reference, and asks it whether this is ZeRO-3
    told = HfDeepSpeedConfig(dict(settings))
    try:
        with ExitStack() as stack:
            for context in kind.get_init_context(dtype, False, False, None):
                stack.enter_context(context)
            model: PreTrainedModel = kind(config)
        model.tie_weights()
    finally:
        unset_hf_deepspeed_config()
        del told
    return model


@torch.no_grad()
def _fill(model: PreTrainedModel, files: list[str]) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for file in files:
        # one file open at a time: pages that were read of it leave memory with it
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():
                if name in parameters:
                    _fill_part(parameters[name], opened.get_tensor(name))


def _fill_part(parameter: Any, stored: Tensor) -> None:
    """Copy this rank's part of a weight that lies in a file; what is not copied is not read."""
    part = parameter.ds_tensor
    start = part.ds_numel * torch.distributed.get_rank()
    own = stored.flatten()[start : start + part.ds_numel]  # the last rank's part may be longer than what is left
    part[: len(own)].copy_(own)


def _names(file: str) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def is_partitioned(module: nn.Module) -> bool:
    """Whether a rank holds only its part of the weights."""
    # ZeRO-3 marks what it partitions with `ds_id`
    return any(is_split(parameter) for parameter in module.parameters())


@contextmanager
def gathering(model: nn.Module) -> Iterator[None]:
    """Gather the weights of each layer while it runs; every rank runs the same. What training's engine does later."""
    handles = [handle for module in model.modules() for handle in _gathered(module)]
    try:
        yield
    finally:
        Handle.of(handles).remove()


def _gathered(module: nn.Module) -> list[Handle]:
    own = [parameter for parameter in module.parameters(recurse=False) if is_split(parameter)]
    if not own:
        return []
    opened: list[Any] = []

    def before(*_: Any) -> None:
        opened.append(whole(own))
        opened[-1].__enter__()

    def after(*_: Any) -> None:
        opened.pop().__exit__(None, None, None)

    made = [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]
    return [Handle(hook.remove) for hook in made]
