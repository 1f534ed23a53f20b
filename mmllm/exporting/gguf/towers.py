"""Vision towers under llama.cpp's names: CLIP, SigLIP, Idefics3's, InternVL's of transformers, those of open_clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from open_clip.timm_model import TimmModel
from open_clip.transformer import QuickGELU, VisionTransformer
from timm import layers
from torch import Tensor, nn
from transformers.activations import ACT2FN

from mmllm.encoders.base import Encoder
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.encoders.image.open_clip import OpenClipEncoder
from mmllm.encoders.image.vit_base import ImageEncoder
from mmllm.exporting.gguf.text_model import unfit
from mmllm.types import Layer

CLASS, PATCHES, POSITIONS = "v.class_embd", "v.patch_embd.weight", "v.position_embd.weight"
POST_NORM = "v.post_ln"
KINDS = ("weight", "bias")

_SIGLIP = {
    "embeddings.patch_embedding": "v.patch_embd", "embeddings.position_embedding": "v.position_embd",
    "post_layernorm": POST_NORM,
}  # fmt: skip
_CLIP = {**_SIGLIP, "embeddings.class_embedding": CLASS, "pre_layrnorm": "v.pre_ln"}
_CLIP_BLOCK = {
    "layer_norm1": "ln1", "layer_norm2": "ln2", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.out_proj": "attn_out", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
}  # fmt: skip
_INTERNVL = {
    "embeddings.cls_token": CLASS, "embeddings.position_embeddings": POSITIONS,
    "embeddings.patch_embeddings.projection": "v.patch_embd", "layernorm": POST_NORM,
}  # fmt: skip
_INTERNVL_BLOCK = {
    "layernorm_before": "ln1", "layernorm_after": "ln2", "attention.q_proj": "attn_q", "attention.k_proj": "attn_k",
    "attention.v_proj": "attn_v", "attention.projection_layer": "attn_out", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
    "lambda_1": "ls1.weight", "lambda_2": "ls2.weight",
}  # fmt: skip
_OPEN_CLIP = {
    "class_embedding": CLASS, "positional_embedding": POSITIONS, "conv1": "v.patch_embd", "ln_pre": "v.pre_ln",
    "ln_post": POST_NORM,
}  # fmt: skip
_OPEN_CLIP_BLOCK = {
    "ln_1": "ln1", "ln_2": "ln2", "attn.q": "attn_q", "attn.k": "attn_k", "attn.v": "attn_v",
    "attn.out_proj": "attn_out", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "ls_1.gamma": "ls1.weight",
    "ls_2.gamma": "ls2.weight",
}  # fmt: skip
_TIMM = {
    "cls_token": CLASS, "pos_embed": POSITIONS, "patch_embed.proj": "v.patch_embd", "norm_pre": "v.pre_ln",
    "norm": POST_NORM,
}  # fmt: skip
_TIMM_BLOCK = {
    "norm1": "ln1", "norm2": "ln2", "attn.q": "attn_q", "attn.k": "attn_k", "attn.v": "attn_v", "attn.proj": "attn_out",
    "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down", "ls1.gamma": "ls1.weight", "ls2.gamma": "ls2.weight",
}  # fmt: skip
_HF: Mapping[str, tuple[str, Mapping[str, str], Mapping[str, str]]] = {
    "clip_vision_model": ("encoder.layers", _CLIP, _CLIP_BLOCK),
    "siglip_vision_model": ("encoder.layers", _SIGLIP, _CLIP_BLOCK),
    "idefics3_vision": ("encoder.layers", _SIGLIP, _CLIP_BLOCK),
    "smolvlm_vision": ("encoder.layers", _SIGLIP, _CLIP_BLOCK),
    "internvl_vision": ("encoder.layer", _INTERNVL, _INTERNVL_BLOCK),
}
"""``model_type`` of transformers -> list of blocks, and names there -> names here."""
_UNREAD = ("head.", "pooler.", "attn_pool.", "proj", "fc_norm.")
"""Starts of names whose weights no hidden state of patches passes through."""
GELUS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python")
"""Names of transformers for GELU and what comes close to it, for all of which llama.cpp computes the one with tanh."""
GELU_LAYERS = (nn.GELU, layers.GELU, layers.GELUTanh, *(type(ACT2FN[name]) for name in GELUS))
"""The same as layers of torch, timm and transformers."""


@dataclass(frozen=True)
class Tower:
    """What llama.cpp is told of a vision transformer."""

    tensors: Mapping[str, Tensor]
    """By llama.cpp's names, of as many blocks as are read."""
    blocks: int
    heads: int
    eps: float
    activation: str
    """``gelu``, ``quick_gelu`` or ``silu``."""
    size: int
    """Height and width of its pictures in pixels."""
    patch: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layers: tuple[int, ...]
    """Number of blocks behind which each layer that is read lies, rising."""

    @property
    def width(self) -> int:
        """Width of its hidden states."""
        return self.tensors[PATCHES].shape[0]

    @property
    def hidden(self) -> int:
        """Width between the layers of its feed-forward blocks."""
        return len(self.tensors["v.blk.0.ffn_up.weight"])

    @property
    def has_class(self) -> bool:
        """Whether a class token stands in front of its patches."""
        return CLASS in self.tensors


def tower_of(encoder: Encoder) -> Tower:
    """The tower of an encoder up to the last layer that is read.

    Raises:
        MmllmError: llama.cpp does not compute it.
    """
    if not isinstance(encoder, HfVisionEncoder | OpenClipEncoder):
        kind = type(encoder).__name__
        raise unfit(f"its towers are CLIP, SigLIP and their like (hf_vision, open_clip), and this run has {kind}")
    if encoder.processor.prefix:
        raise unfit("it drops the class token, and this run keeps it (keep: all)")
    height, width = encoder.processor.size
    patch, other = encoder.processor.patch
    if height != width or patch != other:
        raise unfit(
            f"its pictures and patches are squares, and this run's are {height} x {width} and {patch} x {other}"
        )
    read = _layers(encoder)
    if not read[-1]:
        raise unfit("it reads what leaves a block of the tower, and this run what enters the first (layers: [0])")
    found = _of_transformers(encoder) if isinstance(encoder, HfVisionEncoder) else _of_open_clip(encoder)
    tensors, words = found
    final = "final" in encoder.layers
    if final and read.count(read[-1]) > 1:
        raise unfit("it takes the last block either with the tower's last norm or without, and this run both")
    kept = {name: one for name, one in tensors.items() if _is_read(name, read[-1], final)}
    if kept[POSITIONS].shape[0] != (height // patch) ** 2 + (CLASS in kept):
        raise unfit("pictures have the size that the tower was made for, and this run's are of another (image_size)")
    mean, std = _colours(encoder)
    return Tower(kept, read[-1], size=height, patch=patch, mean=mean, std=std, layers=tuple(read), **words)


def _layers(encoder: ImageEncoder) -> list[int]:
    """How many blocks lie in front of each layer that is read, rising."""
    n = encoder.n_blocks
    numbers: list[Layer] = list(encoder.resolve(n))
    return sorted(n if layer == "final" else int(layer) for layer in numbers)


def _is_read(name: str, blocks: int, final: bool) -> bool:
    if name.startswith("v.blk."):
        return int(name.split(".")[2]) < blocks
    return final or not name.startswith(POST_NORM)


def _named(
    state: Mapping[str, Tensor], blocks: str, outer: Mapping[str, str], inner: Mapping[str, str]
) -> dict[str, Tensor]:
    """Tensors by llama.cpp's names.

    Raises:
        MmllmError: one has none.
    """
    found = {}
    for name, tensor in state.items():
        front = ""
        key, names = name, outer
        if name.startswith(f"{blocks}."):
            number, _, key = name.removeprefix(f"{blocks}.").partition(".")
            front, names = f"v.blk.{number}.", inner
        elif name.startswith(_UNREAD):
            continue
        layer, _, kind = key.rpartition(".")
        if key in names:
            found[front + names[key]] = tensor
        elif layer in names and kind in KINDS:
            found[f"{front}{names[layer]}.{kind}"] = tensor
        else:
            raise unfit(f"its towers have no place for {name}")
    found[POSITIONS] = found[POSITIONS].reshape(-1, found[POSITIONS].shape[-1])
    if CLASS in found:
        found[CLASS] = found[CLASS].reshape(-1)
    return found


def _of_transformers(encoder: HfVisionEncoder) -> tuple[dict[str, Tensor], dict[str, Any]]:
    config = encoder.vision.config
    if config.model_type not in _HF:
        raise unfit(f"of towers of this kind ({config.model_type}) no layout is known here; known: {', '.join(_HF)}")
    state = {name.removeprefix("vision_model."): one for name, one in encoder.vision.state_dict().items()}
    words = {
        "heads": config.num_attention_heads,
        "eps": config.layer_norm_eps,
        "activation": _activation(config.hidden_act),
    }
    return _named(state, *_HF[config.model_type]), words


def _of_open_clip(encoder: OpenClipEncoder) -> tuple[dict[str, Tensor], dict[str, Any]]:
    visual = encoder.visual
    if isinstance(visual, VisionTransformer):
        block = visual.transformer.resblocks[0]
        state = _split(visual.state_dict(), ".attn.in_proj_")
        between, norm, heads = block.mlp.gelu, block.ln_1, block.attn.num_heads
        names = _named(state, "transformer.resblocks", _OPEN_CLIP, _OPEN_CLIP_BLOCK)
    else:
        assert isinstance(visual, TimmModel)
        block = visual.trunk.blocks[0]
        state = _split(visual.trunk.state_dict(), ".attn.qkv.")
        between, norm, heads = block.mlp.act, block.norm1, block.attn.num_heads
        names = _named(state, "blocks", _TIMM, _TIMM_BLOCK)
    return names, {"heads": heads, "eps": norm.eps, "activation": _activation(_name_of(between))}


def _split(state: Mapping[str, Tensor], joined: str) -> dict[str, Tensor]:
    """Queries, keys and values that are one layer as three."""
    found = {}
    for name, tensor in state.items():
        front, at, kind = name.partition(joined)
        if not at:
            found[name] = tensor
            continue
        for part, piece in zip("qkv", tensor.chunk(3), strict=True):
            found[f"{front}.attn.{part}.{kind}"] = piece
    return found


def _name_of(layer: nn.Module) -> str:
    """Name of transformers for an activation of torch, timm or open_clip."""
    if isinstance(layer, QuickGELU):
        return "quick_gelu"
    if isinstance(layer, nn.SiLU):
        return "silu"
    return "gelu" if isinstance(layer, GELU_LAYERS) else type(layer).__name__


def _activation(name: str) -> str:
    if name in GELUS:
        return "gelu"
    if name in ("quick_gelu", "silu"):
        return name
    raise unfit(f"its towers compute GELU, QuickGELU or SiLU, and this run's {name}")


def _colours(encoder: HfVisionEncoder | OpenClipEncoder) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each colour, on a scale from 0 to 1."""
    if isinstance(encoder, OpenClipEncoder):
        words = encoder.visual.preprocess_cfg
        return tuple(map(float, words["mean"])), tuple(map(float, words["std"]))
    own: Any = encoder.processor.transform
    own = own.processor
    if not own.do_rescale or not own.do_normalize or abs(own.rescale_factor * 255 - 1) > 1e-6:
        raise unfit("colours are brought to a scale from 0 to 1 and normalised, and this run's are not")
    return tuple(map(float, own.image_mean)), tuple(map(float, own.image_std))
