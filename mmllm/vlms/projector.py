"""The projector of a published multimodal folder as a connector here that computes the same: type, arguments, tensors.

``model/start.py`` copies the tensors, ``published`` writes recipes with the arguments; what no connector computes is
refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from mmllm.errors import MmllmError
from mmllm.vlms.families import FAMILIES, Family, family_of
from mmllm.vlms.tensors import read_tensors

Words = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """A projector as a connector of ours."""

    words: Callable[[Any], Words]
    """Config -> type and arguments of the connector."""
    tensors: Mapping[str, str]
    """Tensor of the published projector without ``.weight`` or ``.bias`` -> layer of the connector, or its tensor."""
    also: tuple[str, ...] = ()
    """Further types that compute it."""
    beside: tuple[str, ...] = ()
    """Beginnings of names of its tensors that lie beside its module; what is left of such a name is in ``tensors``."""
    changed: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    """Tensor of the connector -> what makes it of the published one."""


def _two_layers(config: Any) -> Words:
    words = {"type": "mlp", "depth": 2, **_activation(config)}
    return words if config.multimodal_projector_bias else {**words, "bias": False}


def _activation(config: Any) -> Words:
    """The connector's activation, where it is not its default; its names are transformers' own."""
    found = config.projector_hidden_act
    return {} if found == "gelu" else {"activation": found}


def _shuffled(config: Any) -> Words:
    return {"type": "pixel_shuffle", "factor": config.scale_factor, "norm": False, "depth": 1, "bias": False}


def _gemma3(config: Any) -> Words:
    side = int(config.mm_tokens_per_image**0.5)
    eps = config.vision_config.layer_norm_eps
    norm = {"norm": "rms", "norm_after": True, "eps": eps}
    return {"type": "pool", "grid": [side, side], **norm, "depth": 1, "bias": False}


def _aya(config: Any) -> Words:
    words = {"type": "pixel_shuffle", "factor": config.downsample_factor, "eps": config.adapter_layer_norm_eps}
    # a word that its configuration does not have by itself
    given = hasattr(config, "alignment_intermediate_size")
    width = config.alignment_intermediate_size if given else config.get_text_config().hidden_size
    return {**words, "width": width, "activation": "silu", "gated": True}


def _voxtral(config: Any) -> Words:
    factor = config.audio_config.intermediate_size // config.audio_config.hidden_size
    stacked = {"type": "pixel_shuffle", "axes": 1, "factor": factor, "norm": False}
    return {**stacked, "depth": 2, "bias": False, **_activation(config)}


_TWO = Layout(_two_layers, {"linear_1": "mlp.0", "linear_2": "mlp.2"}, also=("pool",))
_NEWLINE = "stitch.newline"
# the model's own tensor `image_newline`
_STITCHED = replace(_TWO, tensors={**_TWO.tensors, "newline": _NEWLINE}, beside=("image_",))
_ONE = Layout(lambda config: {"type": "mlp", "depth": 1}, {"linear": "mlp.0"}, also=("pool",))
_IDEFICS = Layout(_shuffled, {"proj": "mlp.1"})
LAYOUTS: Mapping[str, Layout] = {
    "llava": _TWO,
    "llava_next": _STITCHED,
    "llava_next_video": _STITCHED,
    "llava_onevision": _STITCHED,
    "internvl": Layout(
        lambda config: {"type": "pixel_shuffle", "factor": round(1 / config.downsample_ratio), **_activation(config)},
        {"layer_norm": "mlp.0", "linear_1": "mlp.1", "linear_2": "mlp.3"},
    ),
    "paligemma": _ONE,
    "qwen2_audio": _ONE,
    "deepseek_vl": Layout(
        lambda config: {"type": "mlp", "depth": 2}, {"linear1": "mlp.0", "linear2": "mlp.2"}, ("pool",)
    ),
    "idefics3": _IDEFICS,
    "smolvlm": _IDEFICS,
    "aya_vision": Layout(_aya, {"layernorm": "mlp.0", "linear_1": "mlp.1", "linear_2": "mlp.3"}),
    "gemma3": Layout(
        _gemma3,
        {"mm_input_projection_weight": "mlp.0.weight", "mm_soft_emb_norm": "norm"},
        # a product from the left, and a norm whose weight counts from one
        changed={"mlp.0.weight": lambda weight: weight.T.contiguous(), "norm.weight": lambda weight: 1 + weight},
    ),
    "voxtral": Layout(_voxtral, {"linear_1": "mlp.1", "linear_2": "mlp.3"}),
}
"""``model_type`` -> its projector here."""
OTHERS: Mapping[str, str] = {
    "mistral3": "an RMSNorm, a merger of patches in an order of its own and an MLP",
    "qwen2_vl": "a merger inside the tower",
    "qwen2_5_vl": "a merger inside the tower",
    "qwen3_vl": "mergers inside the tower, one of them for blocks of the LLM",
}
"""``model_type`` -> what its projector is, where no connector here computes it."""


def projector_words(path: str, config: Any) -> Words:
    """Type and arguments of the connector that computes a folder's projector.

    Raises:
        MmllmError: none does.
    """
    family = family_of(config)
    if family is None or config.model_type in OTHERS:
        why = "not known" if family is None else OTHERS[config.model_type]
        name = config.model_type if family is None else family.name
        raise MmllmError(
            f"the projector of {path!r} ({name}) is {why}, which no connector here computes; leave start out and train "
            "one"
        )
    return LAYOUTS[config.model_type].words(config)


def projector_tensors(
    path: str, type: str, args: Mapping[str, Any], names: frozenset[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of the projector at ``path`` by the names of a connector ``type``, and names of those left out.

    A projector without biases gives zeros for those of the connector, which computes the same.

    Args:
        path: folder or hub id of the published model.
        type: of the connector.
        args: of the connector, as the recipe has them.
        names: of the connector's tensors.

    Raises:
        MmllmError: not a known published model, or this connector does not compute its projector.
    """
    config = AutoConfig.from_pretrained(path)
    family = family_of(config)
    if family is None:
        known = ", ".join(FAMILIES[kind].name for kind in LAYOUTS)
        raise MmllmError(
            f"{path!r} is a {config.model_type}, whose projector is not known; known are {known}. Give a safetensors "
            "file: start: {path: FILE, prefix: ..., rename: {...}}"
        )
    _check(path, type, args, projector_words(path, config), family, LAYOUTS[config.model_type])
    layout = LAYOUTS[config.model_type]
    starts = (f"{family.projector}.", *layout.beside)
    found = read_tensors(path, (*(f"model.{start}" for start in starts), *starts))
    taken: dict[str, Tensor] = {}
    left = []
    for name, tensor in found.items():
        layer, _, kind = name.rpartition(".")
        if layout.tensors.get(name) == _NEWLINE and _NEWLINE not in names:
            left.append(name)  # a connector that takes pictures whole does without
        elif name in layout.tensors:
            taken[layout.tensors[name]] = tensor
        elif layer in layout.tensors:
            taken[f"{layout.tensors[layer]}.{kind}"] = tensor
        else:
            left.append(name)
    taken = {name: layout.changed[name](one) if name in layout.changed else one for name, one in taken.items()}
    for name in list(taken):
        bias = f"{name.removesuffix('.weight')}.bias"
        if name.endswith(".weight") and bias in names and bias not in taken:
            taken[bias] = torch.zeros(len(taken[name]))
    return taken, left


def _check(path: str, type: str, args: Mapping[str, Any], wanted: Words, family: Family, layout: Layout) -> None:
    """MmllmError where a connector computes something else; differing sizes show when tensors are copied."""
    if type not in (wanted["type"], *layout.also):
        settings = ", ".join(f"{word}: {_shown(value)}" for word, value in wanted.items() if word != "type")
        raise MmllmError(
            f"the projector of {path!r} ({family.name}) is what the connector {wanted['type']} computes ({settings}), "
            f"not {type}"
        )
    # what tensors do not show; the defaults are the connectors' own
    for word, default in (("axes", 2), ("activation", "gelu"), ("eps", 1e-5), ("norm_after", False), ("gated", False)):
        given, right = args.get(word, default), wanted.get(word, default)
        if given != right:
            raise MmllmError(
                f"the projector of {path!r} ({family.name}) has {word}: {_shown(right)}, the connector {type} has "
                f"{_shown(given)}; write {word}: {_shown(right)}"
            )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
