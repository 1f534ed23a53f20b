"""The projector of a published multimodal folder in the names of a connector here that computes the same.

``model/start.py`` copies the tensors; what no connector computes is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from mmllm.errors import MmllmError
from mmllm.vlms.families import FAMILIES, Family, family_of
from mmllm.vlms.tensors import read_tensors

GELU = ("gelu", "gelu_python")
"""Activations that are erf GELU, which is what the connectors have."""


@dataclass(frozen=True)
class Layout:
    """A projector as a connector of ours: which types, and their names for its layers."""

    connectors: tuple[str, ...]
    """Types that compute it; the first is named in sentences."""
    layers: Mapping[str, str]
    """Layer of the published projector -> layer of the connector."""
    settings: str
    """Arguments that the connector needs for it, for sentences."""


MLP = Layout(("mlp", "pool"), {"linear_1": "mlp.0", "linear_2": "mlp.2"}, "depth: 2")
LAYOUTS: Mapping[str, Layout] = {
    "llava": MLP,
    "llava_next": MLP,
    "llava_next_video": MLP,
    "llava_onevision": MLP,
    "internvl": Layout(
        ("pixel_shuffle",), {"layer_norm": "mlp.0", "linear_1": "mlp.1", "linear_2": "mlp.3"}, "factor: 2"
    ),
    "paligemma": Layout(("mlp", "pool"), {"linear": "mlp.0"}, "depth: 1"),
    "qwen2_audio": Layout(("mlp", "pool"), {"linear": "mlp.0"}, "depth: 1"),
}
"""``model_type`` -> its projector here."""
OTHERS: Mapping[str, str] = {
    "idefics3": "pixel shuffle and one linear layer without norm or bias",
    "smolvlm": "pixel shuffle and one linear layer without norm or bias",
    "gemma3": "an average over patches, an RMSNorm and a product without bias",
    "mistral3": "an RMSNorm, a merger of patches in an order of its own and an MLP",
    "aya_vision": "pixel shuffle and a gated MLP",
    "qwen2_vl": "a merger inside the tower",
    "qwen2_5_vl": "a merger inside the tower",
    "qwen3_vl": "mergers inside the tower, one of them for blocks of the LLM",
    "voxtral": "four frames side by side and an MLP without biases",
}
"""``model_type`` -> what its projector is, where no connector here computes it."""


def projector_tensors(path: str, type: str) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of the projector at ``path`` by the names of a connector ``type``, and names of those left out.

    A projector without biases gets zeros for them, which computes the same.

    Raises:
        MmllmError: not a known published model, or no connector of this type computes its projector.
    """
    config = AutoConfig.from_pretrained(path)
    family = family_of(config)
    if family is None:
        names = ", ".join(FAMILIES[kind].name for kind in LAYOUTS)
        raise MmllmError(
            f"{path!r} is a {config.model_type}, whose projector is not known; known are {names}. Give a safetensors "
            "file: start: {path: FILE, prefix: ..., rename: {...}}"
        )
    layout = _layout(path, type, config, family)
    below = (f"model.{family.projector}.", f"{family.projector}.")
    found = read_tensors(path, below)
    taken: dict[str, Tensor] = {}
    left = []
    for name, tensor in found.items():
        layer, _, kind = name.rpartition(".")
        if layer in layout.layers:
            taken[f"{layout.layers[layer]}.{kind}"] = tensor
        else:
            left.append(name)
    for layer in layout.layers.values():
        if f"{layer}.weight" in taken and f"{layer}.bias" not in taken:
            taken[f"{layer}.bias"] = torch.zeros(len(taken[f"{layer}.weight"]))
    return taken, left


def _layout(path: str, type: str, config: Any, family: Family) -> Layout:
    """The layout of the family, if this connector computes it with the settings of this folder."""
    if config.model_type in OTHERS:
        raise MmllmError(
            f"the projector of {path!r} ({family.name}) is {OTHERS[config.model_type]}, which no connector here "
            "computes; leave start out and train one"
        )
    layout = LAYOUTS[config.model_type]
    if type not in layout.connectors:
        raise MmllmError(
            f"the projector of {path!r} ({family.name}) is what the connector {layout.connectors[0]} computes "
            f"({layout.settings}), not {type}"
        )
    if hasattr(config, "projector_hidden_act") and len(layout.layers) > 1 and config.projector_hidden_act not in GELU:
        raise MmllmError(
            f"the projector of {path!r} ({family.name}) has the activation {config.projector_hidden_act!r}, the "
            f"connector {type} has GELU"
        )
    return layout
