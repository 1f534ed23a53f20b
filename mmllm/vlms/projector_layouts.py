"""How the projectors of published multimodal models are laid out: each as a connector here that computes the same.

``projector.py`` reads and writes tensors by this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mmllm.errors import MmllmError
from mmllm.vlms import cross_attention, ovis2

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
    beside: tuple[str, ...] = ()
    """Beginnings of names of its tensors that lie beside its module; what is left of such a name is in ``tensors``."""
    changed: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    """Tensor of the connector -> what makes it of the published one."""
    restored: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    """The same names -> what makes the published tensor of the connector's."""
    joined: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    """Makes published tensors others first, where several become one."""
    read: Callable[[str, Any], dict[str, Tensor]] | None = None
    """(folder or hub id, config) -> all tensors by the connector's names, where they lie in several modules."""
    write: Callable[[Any, Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    """The reverse of ``read``: (config, tensors of the connector) -> by the names that the whole model has for them."""
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


def _lfm2(config: Any) -> Words:
    words = {"type": "pixel_shuffle", "factor": config.downsample_factor, "width": config.projector_hidden_size}
    words |= {} if config.projector_use_layernorm else {"norm": False}
    return {**words, **({} if config.projector_bias else {"bias": False}), **_activation(config)}


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


def _windowed(config: Any) -> Words:
    """Granite Speech's: a Q-Former reads windows of a sound, the last one filled with zeros."""
    own = config.projector_config
    words = {"window": config.window_size, "queries": config.window_size // config.downsample_rate}
    words |= {"depth": own.num_hidden_layers, "heads": own.num_attention_heads, "width": own.hidden_size}
    words |= {"mlp_width": own.intermediate_size, "every": own.cross_attention_frequency}
    words |= {} if own.hidden_act == "gelu" else {"activation": own.hidden_act}
    words |= {} if own.layer_norm_eps == 1e-12 else {"eps": own.layer_norm_eps}
    return {"type": "window_qformer", **words, "norm": False, "rest": "zeros"}


def _llama4(config: Any) -> Words:
    """Its tower's adapter and projector: blocks side by side, two layers with GELU behind each, and a third."""
    tower = config.vision_config
    factor = round(1 / tower.pixel_shuffle_ratio)
    widths = (tower.projector_input_dim, tower.projector_output_dim, tower.vision_output_dim)
    if len(set(widths)) > 1 or tower.intermediate_size != tower.hidden_size * factor**2:
        raise MmllmError(
            f"projector_input_dim, projector_output_dim and vision_output_dim: {list(widths)} must be the same, and "
            f"intermediate_size: {tower.intermediate_size} that of a block of {factor} x {factor} patches; else its "
            "own adapter does not fit together"
        )
    words = {"type": "pixel_shuffle", "factor": factor, "norm": False, "depth": 3, "width": widths[0]}
    return {**words, "bias": False}


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


_ADAPTER = "vision_model.vision_adapter.mlp."
_LINEARS = {"linear_1": "mlp.0", "linear_2": "mlp.2"}
_TWO = Layout(_two_layers, _LINEARS, also=("pool",))
NEWLINE = "stitch.newline"
# the model's own tensor `image_newline`
_STITCHED = replace(_TWO, tensors={**_LINEARS, "newline": NEWLINE}, beside=("image_",))
_ONE = Layout(lambda config: {"type": "mlp", "depth": 1}, {"linear": "mlp.0"}, also=("pool",))
_QWEN = Layout(_qwen, {"ln_q": "mlp.0", "mlp.0": "mlp.1", "mlp.2": "mlp.3"})
_IDEFICS = Layout(_shuffled, {"proj": "mlp.1"})
LAYOUTS: Mapping[str, Layout] = {
    "llava": _TWO,
    "llava_next": _STITCHED,
    "llava_next_video": _STITCHED,
    "llava_onevision": _STITCHED,
    "video_llava": _TWO,
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
        restored={"mlp.0.weight": lambda weight: weight.T.contiguous(), "norm.weight": lambda weight: weight - 1},
    ),
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": Layout(_qwen3, _qwen3_tensors),
    "deepseek_vl_hybrid": Layout(
        lambda config: {"type": "concat", "depth": 2}, {"first": "mlp.0", "proj": "mlp.2"}, joined=_halves
    ),
    "ovis2": Layout(ovis2.words_of, {}, read=ovis2.tensors_of, write=ovis2.published),
    "llama4": Layout(
        _llama4,
        {**{f"{_ADAPTER}fc1": "mlp.1", f"{_ADAPTER}fc2": "mlp.3"}, "multi_modal_projector.linear_1": "mlp.5"},
        parts=(_ADAPTER, "multi_modal_projector."),
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
    "lfm2_vl": Layout(_lfm2, {"layer_norm": "mlp.0", "linear_1": "mlp.1", "linear_2": "mlp.3"}),
    "audioflamingo3": Layout(_flamingo, {"linear_1": "mlp.0", "linear_2": "mlp.2"}, also=("pool",)),
    "mllama": Layout(cross_attention.words_of, {}, read=cross_attention.tensors_of, write=cross_attention.published),
    "granite_speech": Layout(
        _windowed,
        {"query": "queries", "qformer.": "qformer.", "linear": "output"},
        changed={"queries": lambda queries: queries[0]},
        restored={"queries": lambda queries: queries[None]},
    ),
    "voxtral": Layout(_voxtral, {"linear_1": "mlp.1", "linear_2": "mlp.3"}),
}
"""``model_type`` -> its projector here."""
DEFAULTS: Mapping[str, Any] = {
    "axes": 2, "activation": "gelu", "eps": 1e-5, "norm_after": False, "norm_first": False, "merge": "mean",
    "stacks": "grid", "start": 1, "gated": False, "inner_norm": False, "pad": False,
}  # fmt: skip
"""Words of connectors that their tensors do not show -> the connectors' own defaults."""
DEFAULTS_OF: Mapping[str, Words] = {
    "cross_attention_layers": {"activation": "silu"},
    "qformer": {"eps": 1e-12, "heads": 12},
    "window_qformer": {"eps": 1e-12, "heads": 12, "window": 17, "rest": "own", "every": 1},
    "gated_resampler": {"activation": "silu", "resampler_activation": "silu", "eps": 1e-6, "heads": 16},
}
"""Connector -> the same, where it has others."""
