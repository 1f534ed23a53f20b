"""The projector of a published multimodal folder as a connector here that computes the same: type, arguments, tensors.

``model/start.py`` copies the tensors, ``published`` writes recipes with the arguments; what no connector computes is
refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
    """Tensor of the published projector without ``.weight`` or ``.bias`` -> layer of the connector, or its tensor; what
    ends on a dot is the beginning of a name."""
    also: tuple[str, ...] = ()
    """Further types that compute it."""
    changed: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    """Tensor of the connector -> what makes it of the published one."""
    parts: tuple[str, ...] = ()
    """Parts of the model that make it up, where it is more than the family's ``projector``; tensors' names begin so."""


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


def _mistral3(config: Any) -> Words:
    words = {"type": "patch_merger", "factor": config.spatial_merge_size, "eps": config.text_config.rms_norm_eps}
    return {**words, **({"bias": True} if config.multimodal_projector_bias else {}), **_activation(config)}


def _in_raster_order(weight: Tensor) -> Tensor:
    """Inputs of a merging layer from (channel, place in the block) to (place, channel): float[D, places * D]."""
    return weight.unflatten(1, (len(weight), -1)).transpose(1, 2).flatten(1).contiguous()


def _voxtral(config: Any) -> Words:
    factor = config.audio_config.intermediate_size // config.audio_config.hidden_size
    stacked = {"type": "pixel_shuffle", "axes": 1, "factor": factor, "norm": False}
    return {**stacked, "depth": 2, "bias": False, **_activation(config)}


def _idefics2(config: Any) -> Words:
    own, text = config.perceiver_config, config.text_config
    words = {"latents": own.resampler_n_latents, "depth": own.resampler_depth, "heads": own.resampler_n_heads}
    words |= {"head_dim": own.resampler_head_dim, "key_heads": own.num_key_value_heads}
    words |= {"mlp_width": text.intermediate_size, "eps": own.rms_norm_eps}
    words |= {"activation": text.hidden_act, "resampler_activation": own.hidden_act}
    return {"type": "gated_resampler", **words}


def _qformer(config: Any) -> Words:
    own = config.qformer_config
    words = {"queries": config.num_query_tokens, "depth": own.num_hidden_layers, "heads": own.num_attention_heads}
    words |= {"width": own.hidden_size, "mlp_width": own.intermediate_size, "every": own.cross_attention_frequency}
    words |= {} if own.hidden_act == "gelu" else {"activation": own.hidden_act}
    words |= {} if own.layer_norm_eps == 1e-12 else {"eps": own.layer_norm_eps}
    return {"type": "qformer", **words}


def _instructed(config: Any) -> Words:
    own = config.qformer_config
    return {**_qformer(config), "words": own.vocab_size, "positions": own.max_position_embeddings}


def _qformer_layout(words: Callable[[Any], Words]) -> Layout:
    tensors = {"query_tokens": "queries", "qformer.": "qformer.", "language_projection": "output"}
    parts = ("query_tokens", "qformer.", "language_projection.")
    return Layout(words, tensors, changed={"queries": lambda queries: queries[0]}, parts=parts)


_TWO = Layout(_two_layers, {"linear_1": "mlp.0", "linear_2": "mlp.2"}, also=("pool",))
_ONE = Layout(lambda config: {"type": "mlp", "depth": 1}, {"linear": "mlp.0"}, also=("pool",))
_IDEFICS = Layout(_shuffled, {"proj": "mlp.1"})
LAYOUTS: Mapping[str, Layout] = {
    "llava": _TWO,
    "llava_next": _TWO,
    "llava_next_video": _TWO,
    "llava_onevision": _TWO,
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
    "gemma3": Layout(
        _gemma3,
        {"mm_input_projection_weight": "mlp.0.weight", "mm_soft_emb_norm": "norm"},
        # a product from the left, and a norm whose weight counts from one
        changed={"mlp.0.weight": lambda weight: weight.T.contiguous(), "norm.weight": lambda weight: 1 + weight},
    ),
    "idefics2": Layout(_idefics2, {"modality_projection.": "projection.", "perceiver_resampler.": "resampler."}),
    "blip-2": _qformer_layout(_qformer),
    "instructblip": _qformer_layout(_instructed),
    "mistral3": Layout(
        _mistral3,
        {"norm": "norm", "patch_merger.merging_layer": "merge", "linear_1": "mlp.0", "linear_2": "mlp.2"},
        changed={"merge.weight": _in_raster_order},
    ),
    "voxtral": Layout(_voxtral, {"linear_1": "mlp.1", "linear_2": "mlp.3"}),
}
"""``model_type`` -> its projector here."""
OTHERS: Mapping[str, str] = {
    "aya_vision": "pixel shuffle and a gated MLP",
    "qwen2_vl": "a merger inside the tower",
    "qwen2_5_vl": "a merger inside the tower",
    "qwen3_vl": "mergers inside the tower, one of them for blocks of the LLM",
}
"""``model_type`` -> what its projector is, where no connector here computes it."""


UNSEEN: Words = {"axes": 2, "activation": "gelu", "eps": 1e-5, "norm_after": False}
"""Words of connectors that no tensor's shape shows, and what they are where a recipe does not say them."""
UNSEEN_OF: Mapping[str, Words] = {
    "qformer": {"eps": 1e-12, "heads": 12},
    "gated_resampler": {"activation": "silu", "resampler_activation": "silu", "eps": 1e-6, "heads": 16},
}
"""Connector -> the same, where it has others."""


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
    found = _read(path, family, layout)
    taken: dict[str, Tensor] = {}
    left = []
    for name, tensor in found.items():
        layer, _, kind = name.rpartition(".")
        if name in layout.tensors:
            taken[layout.tensors[name]] = tensor
        elif layer in layout.tensors:
            taken[f"{layout.tensors[layer]}.{kind}"] = tensor
        elif (inner := _renamed(name, layout)) in names:
            taken[inner] = tensor
        else:
            left.append(name)
    taken = {name: layout.changed[name](one) if name in layout.changed else one for name, one in taken.items()}
    for name in list(taken):
        bias = f"{name.removesuffix('.weight')}.bias"
        if name.endswith(".weight") and bias in names and bias not in taken:
            taken[bias] = torch.zeros(len(taken[name]))
    return taken, left


def _read(path: str, family: Family, layout: Layout) -> dict[str, Tensor]:
    """Tensors of the projector by their names inside it, or from its parts' names on."""
    if not layout.parts:
        return read_tensors(path, (f"model.{family.projector}.", f"{family.projector}."))
    found = {part: read_tensors(path, (f"model.{part}", part)) for part in layout.parts}
    return {part + name: tensor for part, tensors in found.items() for name, tensor in tensors.items()}


def _renamed(name: str, layout: Layout) -> str:
    """The connector's name of a tensor whose beginning the layout has; else its own."""
    for old, new in layout.tensors.items():
        if old.endswith(".") and name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _check(path: str, type: str, args: Mapping[str, Any], wanted: Words, family: Family, layout: Layout) -> None:
    """MmllmError where a connector computes something else; differing sizes show when tensors are copied."""
    if type not in (wanted["type"], *layout.also):
        settings = ", ".join(f"{word}: {_shown(value)}" for word, value in wanted.items() if word != "type")
        raise MmllmError(
            f"the projector of {path!r} ({family.name}) is what the connector {wanted['type']} computes ({settings}), "
            f"not {type}"
        )
    # what tensors do not show; the defaults are the connectors' own
    for word, default in {**UNSEEN, **UNSEEN_OF.get(type, {})}.items():
        given, right = args.get(word, default), wanted.get(word, default)
        if given != right:
            raise MmllmError(
                f"the projector of {path!r} ({family.name}) has {word}: {_shown(right)}, the connector {type} has "
                f"{_shown(given)}; write {word}: {_shown(right)}"
            )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
