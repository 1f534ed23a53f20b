"""Tiny models of libraries whose blocks connectors can work inside, each with an input and its hidden states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import open_clip
import timm
import torch
import transformers
from torch import Tensor, nn

from mmllm.encoders.blocks import blocks_of
from mmllm.encoders.hook_points import BlockHooks
from mmllm.hooks import EncoderContext, Scope

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


@dataclass
class Model:
    """One frozen model and how to run it."""

    module: nn.Module
    inside: BlockHooks
    call: Callable[[Tensor], Tensor]
    given: Tensor
    context: EncoderContext = field(default_factory=EncoderContext)
    """Of its passes."""

    def run(self, x: Tensor) -> Tensor:
        """float[2, ...] -> float[2, prefix + T, 16] that leaves its last block."""
        with self.inside.scope.open(self.context):
            return self.call(x)


def _of(config: Any, run: Callable[[nn.Module, Tensor], Tensor], given: Tensor, part: str = "") -> Model:
    model = transformers.AutoModel.from_config(config).eval().requires_grad_(False)
    model = model.get_submodule(part) if part else model
    return Model(model, BlockHooks(blocks_of(model, 3), 16, Scope()), lambda x: run(model, x), given)


def _last(model: nn.Module, block: nn.Module, x: Tensor) -> Tensor:
    """What leaves ``block`` while ``model`` runs on ``x``."""
    seen: list[Tensor] = []
    handle = block.register_forward_hook(lambda _, __, out: seen.append(out))
    model(x)
    handle.remove()
    return seen[0]


def _pixels(config: Any, part: str = "") -> Model:
    def run(model: nn.Module, x: Tensor) -> Tensor:
        return model(pixel_values=x, output_hidden_states=True).hidden_states[-1]

    return _of(config, run, torch.randn(2, 3, 16, 16), part)


def vit() -> Model:
    """ViT: pre-norm, ``layernorm_before``."""
    return _pixels(transformers.ViTConfig(**SMALL, image_size=16, patch_size=8))


def clip_vision() -> Model:
    """CLIP's picture tower: pre-norm, ``layer_norm1``."""
    return _pixels(transformers.CLIPVisionConfig(**SMALL, image_size=16, patch_size=8))


def siglip_vision() -> Model:
    """SigLIP's picture tower: no class token."""
    return _pixels(transformers.SiglipVisionConfig(**SMALL, image_size=16, patch_size=8))


def dinov2() -> Model:
    """DINOv2 with registers: layer scale, which is far from 1 here."""
    small = {name: value for name, value in SMALL.items() if name != "intermediate_size"}
    sizes = {"image_size": 16, "patch_size": 8, "mlp_ratio": 2, "num_register_tokens": 2, "layerscale_value": 0.3}
    return _pixels(transformers.Dinov2WithRegistersConfig(**small, **sizes))


def dinov3() -> Model:
    """DINOv3: rotary positions reach its blocks."""
    return _pixels(transformers.DINOv3ViTConfig(**SMALL, image_size=16, patch_size=8, layerscale_value=0.3))


def ast() -> Model:
    """Audio Spectrogram Transformer: a ViT over mel frames."""
    sizes = {"max_length": 32, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8}
    config = transformers.ASTConfig(**SMALL, **sizes)
    return _of(config, lambda m, x: m(x, output_hidden_states=True).hidden_states[-1], torch.randn(2, 32, 16))


def whisper() -> Model:
    """Whisper's encoder: pre-norm, the MLP is two layers of the block itself."""
    config = transformers.WhisperConfig(
        d_model=16, encoder_layers=3, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=16, num_mel_bins=8, max_source_positions=12,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip

    def run(encoder: nn.Module, x: Tensor) -> Tensor:
        return _last(encoder, encoder.get_submodule("layers.2"), x)

    return _of(config, run, torch.randn(2, 8, 24), "encoder")


def _wave(stable: bool, kind: Any) -> Model:
    config = kind(
        **SMALL, do_stable_layer_norm=stable, feat_extract_norm="layer" if stable else "group", conv_dim=(16, 16),
        conv_stride=(4, 4), conv_kernel=(8, 4), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        apply_spec_augment=False,
    )  # fmt: skip

    def run(model: nn.Module, x: Tensor) -> Tensor:
        return _last(model, model.get_submodule("encoder.layers.2"), x)

    return _of(config, run, torch.randn(2, 160))


def wav2vec2() -> Model:
    """wav2vec2-base: post-norm."""
    return _wave(False, transformers.Wav2Vec2Config)


def wav2vec2_large() -> Model:
    """wav2vec2-large: the same names, pre-norm."""
    return _wave(True, transformers.Wav2Vec2Config)


def hubert() -> Model:
    """HuBERT-base: post-norm."""
    return _wave(False, transformers.HubertConfig)


def clip_text() -> Model:
    """CLIP's text tower: causal."""
    config = transformers.CLIPTextConfig(**SMALL, vocab_size=32, max_position_embeddings=8)

    def run(model: nn.Module, x: Tensor) -> Tensor:
        return model(input_ids=x, output_hidden_states=True).hidden_states[-1]

    return _of(config, run, torch.arange(2, 14).view(2, 6))


def bert() -> Model:
    """BERT: post-norm, residual and norm inside each branch's last module."""
    config = transformers.BertConfig(**SMALL, vocab_size=32, max_position_embeddings=8)

    def run(model: nn.Module, x: Tensor) -> Tensor:
        return model(input_ids=x, output_hidden_states=True).hidden_states[-1]

    return _of(config, run, torch.arange(12).view(2, 6))


def _clip_of_open_clip(batch_first: bool) -> Model:
    width = {"width": 16, "heads": 2, "mlp_ratio": 2.0, "layers": 3}
    tower = open_clip.transformer.Transformer(**width, ls_init_value=0.3, batch_first=batch_first)
    tower.eval().requires_grad_(False)
    return Model(tower, BlockHooks(tower.resblocks, 16, Scope(), batch_first=batch_first), tower, torch.randn(2, 5, 16))


def open_clip_blocks() -> Model:
    """open_clip's blocks with a layer scale."""
    return _clip_of_open_clip(True)


def open_clip_sequence_first() -> Model:
    """The same over [tokens, rows, D]."""
    return _clip_of_open_clip(False)


def timm_vit() -> Model:
    """timm's ViT, as open_clip loads it too."""
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "init_values": 0.3}
    model = timm.models.VisionTransformer(**sizes, num_classes=0).eval().requires_grad_(False)
    run = partial(_last, model, model.blocks[2])
    return Model(model, BlockHooks(model.blocks, 16, Scope()), run, torch.randn(2, 3, 16, 16))


MODELS: dict[str, Callable[[], Model]] = {
    make.__name__: make
    for make in (
        vit, clip_vision, siglip_vision, dinov2, dinov3, ast, whisper, wav2vec2, wav2vec2_large, hubert, clip_text,
        bert, open_clip_blocks, open_clip_sequence_first, timm_vit,
    )
}  # fmt: skip
"""Name -> makes one, the same each time after ``torch.manual_seed``."""
