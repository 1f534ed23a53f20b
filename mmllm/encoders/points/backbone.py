"""The frozen transformer that ``points`` lends its blocks from: a language, image or audio model without its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig

from mmllm.encoders.blocks import blocks_of
from mmllm.encoders.image.hf_vision import load_vision
from mmllm.encoders.image.open_clip_weights import needs_quick_gelu, no_weights_expected
from mmllm.encoders.pretrained import load_model
from mmllm.encoders.recording import recorded
from mmllm.errors import MmllmError
from mmllm.types import Layer
from mmllm.vlms.weightless import weightless

KINDS = ("language", "image", "audio")
POSITIONS = (
    "positional_embedding", "position_embedding.weight", "position_embeddings.weight", "position_embeddings",
    "embed_positions.weight", "wpe.weight", "pos_embed",
)  # fmt: skip
"""Names of the table of learned positions in models of open_clip, timm and transformers."""
NORMS = ("post_layernorm", "layernorm", "final_layer_norm", "layer_norm", "norm")
"""Names in transformers of the norm behind the last block, directly in a model; one with none of them, as BERT, norms
in its blocks."""


class Backbone(nn.Module):
    """Blocks float[N, T, D] -> float[N, T, D], every token seeing every other, and the source's table of positions.

    ``positions`` is float[L, D] (a line: text, time) or float[rows, cols, D] (a plane: patches), without the rows of
    class and register tokens. Embeddings and heads of the source are left out.
    """

    positions: Tensor

    def __init__(
        self, blocks: Sequence[nn.Module], positions: Tensor, norm: nn.Module | None = None, **options: Any
    ) -> None:
        """Take blocks that may be called with one tensor, batch first, and these ``options``.

        ``norm`` stands behind the last block; needed for ``final`` alone.
        """
        super().__init__()
        self.norm = norm
        self.options = options
        self.blocks = nn.ModuleList(blocks)
        # a buffer: read outside of any module's forward, where ZeRO-3 would have taken a parameter away
        self.register_buffer("positions", positions.detach().clone().float())
        self.dim = int(positions.shape[-1])

    def forward(self, tokens: Tensor, wanted: Sequence[Layer]) -> list[Tensor]:
        """Hidden states of each layer of 0..n_blocks or ``final``: float[N, T, D]."""

        def run() -> Tensor:
            state = tokens
            for block in self.blocks:
                output = block(state, **self.options)
                state = output[0] if isinstance(output, tuple) else output
            return state

        return recorded(self.blocks, wanted, run, self.norm)

    def draw(self, seed: int) -> None:
        """Random weights in place of the trained ones, by torch's own initialisation; positions stay."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.blocks.modules():
                if isinstance(module, nn.MultiheadAttention):
                    # private in torch (read in 2.15): its attention has no public way to draw its weights anew
                    module._reset_parameters()
                elif isinstance(module, nn.Linear | nn.LayerNorm):
                    module.reset_parameters()


def load_backbone(kind: str, model: str, pretrained: str | None, *, with_norm: bool = False) -> Backbone:
    """The blocks and positions of a text tower (``language``), vision tower (``image``) or sound encoder (``audio``).

    ``model`` is a folder of open_clip, an open_clip name with its tag ``pretrained`` (language and image), or a folder
    or hub id of transformers. ``with_norm``: its last norm as well; else it is left out, and no weight of the result.

    Raises:
        MmllmError: it cannot be loaded, or has no learned positions or blocks of the usual form.
    """
    if kind not in KINDS:
        raise MmllmError(f'backbone: "{kind}" is unknown; known: {", ".join(KINDS)}.')
    try:
        if pretrained is not None or (Path(model) / "open_clip_config.json").is_file():
            made = _of_open_clip(kind, model, pretrained)
        else:
            made = _of_transformers(kind, model)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise MmllmError(f'"{model}" cannot be loaded as a {kind} backbone of points: {reason}') from error
    if not with_norm:
        made.norm = None
    return made


def _of_open_clip(kind: str, model: str, pretrained: str | None) -> Backbone:
    if kind == "audio":
        raise MmllmError(f'"{model}" is of open_clip, which has no sound encoder; choose language or image.')
    quick = pretrained is not None and needs_quick_gelu(model, pretrained)
    name = model if pretrained is not None else f"local-dir:{model}"
    if weightless():
        with no_weights_expected():
            clip: Any = open_clip.create_model(
                name, load_weights=False, pretrained_text=False, force_quick_gelu=quick, device="meta"
            )
    else:
        clip = open_clip.create_model(name, pretrained, force_quick_gelu=quick, require_pretrained=True)
    if kind == "image":
        # without the first row, which is the class token's
        if not isinstance(clip.visual, VisionTransformer):
            raise MmllmError(f'"{model}" has a {type(clip.visual).__name__} tower; points take open_clip\'s own ViTs.')
        tower, table = clip.visual, clip.visual.positional_embedding
        return Backbone(list(tower.transformer.resblocks), _plane(table[1:], *tower.grid_size), tower.ln_post)
    tower = clip.text if hasattr(clip, "text") else clip
    return Backbone(list(tower.transformer.resblocks), tower.positional_embedding, tower.ln_final)


def _of_transformers(kind: str, model: str) -> Backbone:
    config = AutoConfig.from_pretrained(model)
    tower: Any = load_vision(model) if kind == "image" else _tower(kind, model, config)
    own = tower.config
    blocks = blocks_of(tower, own.num_hidden_layers)
    # transformers' attention says of itself whether it is causal
    if any(vars(module).get("is_causal") for block in blocks for module in block.modules()):
        raise MmllmError(f'"{model}": tokens of a {type(tower).__name__} see only those before; a cloud has no order.')
    named = {name: value for name, value in tower.named_parameters() if name.endswith(POSITIONS)}
    if not named:
        raise MmllmError(f'"{model}": a {type(tower).__name__} has no learned table of positions to be reused.')
    table = next(iter(named.values())).detach()
    table = table[0] if table.dim() == 3 else table
    inside = dict(tower.named_children())
    norm = next((inside[name] for name in NORMS if name in inside), None)
    if kind == "language" or "max_source_positions" in own.to_dict():
        return Backbone(blocks, table, norm, attention_mask=None)
    return Backbone(blocks, _plane(*_patches(tower, own, table)), norm, attention_mask=None)


def _tower(kind: str, model: str, config: Any) -> Any:
    """A text tower or sound encoder with every weight in its files, its pooler aside."""
    _, loaded, info = load_model(model, f"a {kind} model")
    lost = sorted({*info["missing_keys"], *map(str, info["mismatched_keys"])})
    lost = [name for name in lost if "pooler." not in name]
    if lost:
        raise MmllmError(f'the weights of "{model}" do not fill the model: {", ".join(lost[:5])}.')
    inner = {"language": "text_model", "audio": "encoder" if config.is_encoder_decoder else ""}[kind]
    return loaded.get_submodule(inner) if inner in dict(loaded.named_children()) else loaded


def _patches(tower: Any, config: Any, table: Tensor) -> tuple[Tensor, int, int]:
    """(positions of the patches, rows, cols) of a vision or spectrogram transformer; its prefix tokens come first."""
    if "num_mel_bins" in config.to_dict():
        rows, cols = tower.embeddings.get_shape(config)
    else:
        size, patch = config.image_size, config.patch_size
        rows, cols = ((size, size) if isinstance(size, int) else size)[:2]
        sides = (patch, patch) if isinstance(patch, int) else patch
        rows, cols = rows // sides[0], cols // sides[1]
    return table[len(table) - rows * cols :], rows, cols


def _plane(table: Tensor, rows: int, cols: int) -> Tensor:
    """float[rows * cols, D] -> float[rows, cols, D]; ValueError where the numbers do not fit."""
    if len(table) != rows * cols:
        raise ValueError(f"{len(table)} positions for {rows} x {cols} patches")
    return table.reshape(rows, cols, -1)
