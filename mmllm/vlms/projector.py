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
from mmllm.vlms import cross_attention
from mmllm.vlms.families import FAMILIES, Family, family_of
from mmllm.vlms.tensors import read_tensors

Words = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """A projector as a connector of ours."""

    words: Callable[[Any], Words]
    """Config -> type and arguments of the connector."""
    tensors: Mapping[str, str] | Callable[[Any], Mapping[str, str]]
    """Tensor of the published projector without ``.weight`` or ``.bias`` -> layer of the connector, or its tensor; what
    ends on a dot is the beginning of a name. Or config -> these."""
    also: tuple[str, ...] = ()
    """Further types that compute it."""
    changed: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    """Tensor of the connector -> what makes it of the published one."""
    restored: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    """The same names -> what makes the published tensor of the connector's."""
    joined: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    """Makes published tensors others first, where several become one."""
    read: Callable[[str, Any], dict[str, Tensor]] | None = None
    """(folder or hub id, config) -> all tensors by the connector's names, where they lie in several modules."""
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


def _by_channel(weight: Tensor) -> Tensor:
    """The reverse of :func:`_in_raster_order`."""
    return weight.unflatten(1, (-1, len(weight))).transpose(1, 2).flatten(1).contiguous()


def _halves(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DeepSeek-VL's first layer, half of whose outputs see one tower each, as a layer over both side by side."""
    parts = ("high_res_vision_proj", "vision_proj")
    return {
        "first.weight": torch.block_diag(*(tensors[f"{part}.weight"] for part in parts)),
        "first.bias": torch.cat([tensors[f"{part}.bias"] for part in parts]),
        **{name: tensor for name, tensor in tensors.items() if name.partition(".")[0] not in parts},
    }


def _flamingo(config: Any) -> Words:
    words = {"type": "mlp", "depth": 2, **_activation(config)}
    return words if config.projector_bias else {**words, "bias": False}


def _voxtral(config: Any) -> Words:
    factor = config.audio_config.intermediate_size // config.audio_config.hidden_size
    stacked = {"type": "pixel_shuffle", "axes": 1, "factor": factor, "norm": False}
    return {**stacked, "depth": 2, "bias": False, **_activation(config)}


def _qwen(config: Any) -> Words:
    """The merger of Qwen-VL's towers: a norm of each patch, blocks side by side, two layers."""
    tower = config.vision_config
    dim = tower.embed_dim if config.model_type == "qwen2_vl" else tower.hidden_size
    norm = {"norm": "rms"} if config.model_type == "qwen2_5_vl" else {}
    factor = tower.spatial_merge_size
    return {
        "type": "pixel_shuffle",
        "factor": factor,
        **norm,
        "norm_first": True,
        "eps": 1e-6,
        "width": dim * factor**2,
    }


def _qwen3(config: Any) -> Words:
    """Qwen3-VL's, and one for each layer whose features are added behind a block of the LLM."""
    tower = config.vision_config
    stacked = list(tower.deepstack_visual_indexes)
    words = _qwen(config)
    if not stacked:
        return words
    if stacked != sorted(set(stacked)):
        raise MmllmError(
            f"deepstack_visual_indexes: {stacked} are not in rising order, which no connector here computes"
        )
    del words["norm_first"]  # its own rule: the input's patches, the stacks' blocks
    merged = {"merge": "shuffle", "stacks": "layers", "layers": len(stacked) + 1}
    return {**words, "type": "deepstack", **merged}


def _qwen3_tensors(config: Any) -> dict[str, str]:
    merger = {"norm": "mlp.0", "linear_fc1": "mlp.1", "linear_fc2": "mlp.3"}
    n_stacks = len(config.vision_config.deepstack_visual_indexes)
    if not n_stacks:
        return merger
    found = {name: f"mlp.{layer}" for name, layer in merger.items()}
    for n in range(n_stacks):
        found |= {f"{n}.{name}": f"mergers.{n}.{layer}" for name, layer in merger.items()}
    return found


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
    return Layout(
        words,
        tensors,
        changed={"queries": lambda queries: queries[0]},
        parts=parts,
        restored={"queries": lambda queries: queries[None]},
    )


_TWO = Layout(_two_layers, {"linear_1": "mlp.0", "linear_2": "mlp.2"}, also=("pool",))
_ONE = Layout(lambda config: {"type": "mlp", "depth": 1}, {"linear": "mlp.0"}, also=("pool",))
_QWEN = Layout(_qwen, {"ln_q": "mlp.0", "mlp.0": "mlp.1", "mlp.2": "mlp.3"})
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
        restored={"mlp.0.weight": lambda weight: weight.T.contiguous(), "norm.weight": lambda weight: weight - 1},
    ),
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": Layout(_qwen3, _qwen3_tensors),
    "deepseek_vl_hybrid": Layout(
        lambda config: {"type": "concat", "depth": 2}, {"first": "mlp.0", "proj": "mlp.2"}, joined=_halves
    ),
    "fuyu": Layout(lambda config: {"type": "mlp", "depth": 1}, {"": "mlp.0"}),
    "idefics2": Layout(_idefics2, {"modality_projection.": "projection.", "perceiver_resampler.": "resampler."}),
    "blip-2": _qformer_layout(_qformer),
    "instructblip": _qformer_layout(_instructed),
    "mistral3": Layout(
        _mistral3,
        {"norm": "norm", "patch_merger.merging_layer": "merge", "linear_1": "mlp.0", "linear_2": "mlp.2"},
        changed={"merge.weight": _in_raster_order},
        restored={"merge.weight": _by_channel},
    ),
    "audioflamingo3": Layout(_flamingo, {"linear_1": "mlp.0", "linear_2": "mlp.2"}, also=("pool",)),
    "mllama": Layout(cross_attention.words_of, {}, read=cross_attention.tensors_of),
    "voxtral": Layout(_voxtral, {"linear_1": "mlp.1", "linear_2": "mlp.3"}),
}
"""``model_type`` -> its projector here."""
DEFAULTS: Mapping[str, Any] = {
    "axes": 2, "activation": "gelu", "eps": 1e-5, "norm_after": False, "norm_first": False, "merge": "mean",
    "stacks": "grid", "start": 1,
}  # fmt: skip
"""Words of connectors that their tensors do not show -> the connectors' own defaults."""
OTHERS: Mapping[str, str] = {
    "aya_vision": "pixel shuffle and a gated MLP",
}
"""``model_type`` -> what its projector is, where no connector here computes it."""


DEFAULTS_OF: Mapping[str, Words] = {
    "cross_attention_layers": {"activation": "silu"},
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
    if layout.read is not None:
        return layout.read(path, config), []
    names_there = layout.tensors(config) if callable(layout.tensors) else layout.tensors
    found = _published_tensors(path, family, layout)
    found = found if layout.joined is None else layout.joined(found)
    taken: dict[str, Tensor] = {}
    left = []
    for name, tensor in found.items():
        layer, _, kind = name.rpartition(".")
        if name in names_there:
            taken[names_there[name]] = tensor
        elif layer in names_there:
            taken[f"{names_there[layer]}.{kind}"] = tensor
        elif (inner := _renamed(name, names_there)) in names:
            taken[inner] = tensor
        else:
            left.append(name)
    taken = {name: layout.changed[name](one) if name in layout.changed else one for name, one in taken.items()}
    for name in list(taken):
        bias = f"{name.removesuffix('.weight')}.bias"
        if name.endswith(".weight") and bias in names and bias not in taken:
            taken[bias] = torch.zeros(len(taken[name]))
    return taken, left


def published_tensors(
    path: str, config: Any, type: str, args: Mapping[str, Any], learned: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The reverse of :func:`projector_tensors`: tensors of a connector by the names that the whole model has for them.

    Raises:
        MmllmError: this connector does not compute the projector of the model at ``path``, or it is not written.
    """
    family = family_of(config)
    assert family is not None
    layout = LAYOUTS.get(config.model_type)
    if layout is None or layout.joined is not None or layout.read is not None:
        raise MmllmError(f"--to hf: the projector of {family.name} is read, but not written; keep the run")
    _check(path, type, args, projector_words(path, config), family, layout)
    names_there = layout.tensors(config) if callable(layout.tensors) else layout.tensors
    layers = {ours: theirs for theirs, ours in names_there.items()}
    found = {}
    for name, tensor in learned.items():
        layer, _, kind = name.rpartition(".")
        there = layers.get(name) or (f"{layers[layer]}.{kind}" if layer in layers else _renamed(name, layers))
        # those of further layers are numbered, see _published_tensors
        place = "" if layout.parts else f"{family.stacks if there[0].isdigit() else family.projector}."
        found[place + there] = layout.restored[name](tensor) if name in layout.changed else tensor
    return found


def _published_tensors(path: str, family: Family, layout: Layout) -> dict[str, Tensor]:
    """Those of the projector by their names inside it, or from its parts' names on; and numbered, of further layers."""
    if layout.parts:
        each = {part: read_tensors(path, (f"model.{part}", part)) for part in layout.parts}
        return {part + name: tensor for part, tensors in each.items() for name, tensor in tensors.items()}
    found = read_tensors(path, (f"model.{family.projector}.", f"{family.projector}."))
    if family.stacks is not None:
        found |= read_tensors(path, (f"model.{family.stacks}.", f"{family.stacks}."))
    return found


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """The new name of a tensor whose beginning ``names`` has; else its own."""
    for old, new in names.items():
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
    for word, default in {**DEFAULTS, **DEFAULTS_OF.get(type, {})}.items():
        given, right = args.get(word, default), wanted.get(word, default)
        if given != right:
            raise MmllmError(
                f"the projector of {path!r} ({family.name}) has {word}: {_shown(right)}, the connector {type} has "
                f"{_shown(given)}; write {word}: {_shown(right)}"
            )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
