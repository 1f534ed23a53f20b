"""Granite Speech (Saon et al. 2025, arXiv 2505.08699): a conformer, a Q-Former over windows, LoRA for sounds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import cached_file

from mmllm.connectors.base import Connector
from mmllm.connectors.layers.basics import module_key
from mmllm.errors import MmllmError
from mmllm.published.source import Sections, Source
from mmllm.vlms.projector import projector_words
from mmllm.vlms.text_model import renamed

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ENDS = {".lora_A.weight": ".a.weight", ".lora_B.weight": ".b.weight"}
"""End of a tensor's name in a PEFT adapter -> in the connector ``lora``."""


def sections(source: Source) -> Sections:
    """The conformer's last state, ``window_qformer``, and ``lora`` in conversations with sound, where it has one.

    Raises:
        MmllmError: its extractor makes other channels than are heard; the LoRA is of another kind than the connector's,
            or not of the LLM.
    """
    mels, heard = source.extractor.melspec_kwargs["n_mels"], source.config.encoder_config.input_dim
    if 2 * mels != heard:
        raise MmllmError(
            f"{source.path} ({source.family.name}) hears {heard} channels, and its extractor makes twice {mels}: "
            "transformers 5.23 reads no other number of mels out of a folder"
        )
    encoder = {"type": "hf_audio", "model": source.path, "layers": ["final"]}
    token = source.token(source.config.audio_token_id)
    connectors = {"audio": {**projector_words(source.path, source.config), "from": "audio", "token": token}}
    own = source.config.has_lora_adapter
    if not own or cached_file(source.path, CONFIG, _raise_exceptions_for_missing_entries=False) is None:
        return Sections({"audio": encoder}, connectors)
    tensors = _tensors(source)
    connectors["lora"] = _lora(source, tensors)
    return Sections({"audio": encoder}, connectors, filled={"lora": partial(_named, tensors)})


def _tensors(source: Source) -> dict[str, Tensor]:
    """The adapter's, float32, by the name of the LLM's linear layer and ``a.weight`` or ``b.weight``."""
    path = cached_file(source.path, WEIGHTS, _raise_exceptions_for_missing_entries=False)
    if path is None:
        raise MmllmError(f"{source.path} has an {CONFIG} and no {WEIGHTS}; download the folder again")
    found = {}
    for name, tensor in load_file(path).items():
        end = next((end for end in ENDS if name.endswith(end)), None)
        layer = renamed(name.removeprefix("base_model.model.").removesuffix(end or ""), source.config, source.family)
        if end is None or not layer.startswith("model.layers."):
            raise MmllmError(
                f"{source.path} ({source.family.name}): its LoRA has the tensor {name!r}, which is no low-rank update "
                "of a linear layer of its LLM's blocks; no connector here computes it"
            )
        found[layer + ENDS[end]] = tensor.float()
    return found


def _lora(source: Source, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Type and arguments of the connector."""
    config = LoraConfig.from_pretrained(source.path)
    odd = [word for word in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save") if getattr(config, word)]
    odd += [] if config.bias == "none" else ["bias"]
    if odd:
        raise MmllmError(
            f"{source.path} ({source.family.name}): its LoRA has {odd[0]}: {getattr(config, odd[0])}, which the "
            "connector lora does not have"
        )
    targets = sorted({name.rsplit(".", 3)[1] for name in tensors})
    words = {"type": "lora", "rank": config.r, "alpha": config.lora_alpha, "targets": targets, "when": ["audio"]}
    return {**words, **({"rslora": True} if config.use_rslora else {})}


def _named(tensors: Mapping[str, Tensor], connector: Connector) -> dict[str, Tensor]:
    """Tensors by the connector's names."""
    found = {}
    for name, tensor in tensors.items():
        layer, matrix, kind = name.rsplit(".", 2)
        found[f"layers.{module_key(layer)}.{matrix}.{kind}"] = tensor
    return found
