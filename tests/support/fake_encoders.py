"""Encoders in ways that none of the registry has: clips frame by frame, sound with and without masks, two bands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from mmllm.encoders.base import Encoder
from mmllm.encoders.blocks import blocks_of
from mmllm.encoders.hook_points import BlockHooks
from mmllm.hooks import TokenLayout
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.testing.tiny.encoders import TinyEncoder
from mmllm.types import Features

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


class FrameTensors(Processor):
    """Clips are float[frames, 3, H, W] as they are."""

    modality = "video"

    def __init__(self, frame: tuple[int, int]) -> None:
        self.frame = frame

    def read(self, media: Any) -> Item:
        """The tensor."""
        return {"pixels": media}

    def grid(self, info: ItemInfo) -> tuple[int, int, int]:
        """(time, rows, cols)."""
        return len(info["pixels"]), *self.frame

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """All frames, and how many each clip has."""
        lengths = torch.tensor([len(item["pixels"]) for item in items])
        return {"pixels": torch.cat([item["pixels"] for item in items]), "lengths": lengths}

    def blank(self) -> Item:
        """One black frame."""
        return {"pixels": torch.zeros(1, 3, 32, 32)}


class Clips(Encoder):
    """Frames of clips of different lengths through a picture encoder, frame after frame: each frame a row."""

    def __init__(self) -> None:
        super().__init__(layers=[-1])
        self.frames = tiny_encoders.hf_vision()
        self.frames.scope, self.frames.adapters = self.scope, self.adapters
        self.processor = FrameTensors(self.frames.processor.fixed_grid())
        self.dim = self.frames.dim
        self.freeze()

    def forward(self, **inputs: Tensor) -> Features:
        """float[N, most frames * rows * cols, D]."""
        rows, grid = tuple(inputs["lengths"].tolist()), self.frames.processor.fixed_grid()
        with torch.set_grad_enabled(self.learns()), self.laid_out(TokenLayout(rows, grid, self.frames.prefix)):
            states = self.frames.hidden(inputs["pixels"], self.resolve(self.frames.n_blocks))[0]
        tokens = [item[:, self.frames.prefix :].flatten(0, 1) for item in states.split(rows)]
        padded = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        size = grid[0] * grid[1]
        mask = torch.arange(padded.shape[1]) < torch.tensor(rows)[:, None] * size
        return Features({-1: padded}, mask, (max(rows), *grid), tuple((n, *grid) for n in rows))

    def hook_points(self) -> BlockHooks:
        """Of the picture encoder."""
        return self.frames.hook_points()


class Wave(Processor):
    """Sounds are tensors as they are; items of different lengths are padded."""

    modality = "audio"

    def read(self, media: Any) -> Item:
        """The tensor."""
        return {"wave": media}

    def grid(self, info: ItemInfo) -> tuple[int, ...]:
        """Not asked for."""
        raise NotImplementedError

    def collate(self, items: Sequence[ItemInfo]) -> dict[str, Tensor]:
        """Padded with zeros at the end, and the true lengths."""
        waves = [item["wave"] for item in items]
        lengths = torch.tensor([len(wave) for wave in waves])
        return {"wave": nn.utils.rnn.pad_sequence(waves, batch_first=True), "lengths": lengths}

    def blank(self) -> Item:
        """Not asked for."""
        raise NotImplementedError


class Sound(Encoder):
    """A tiny sound model; where it takes a mask it gets it."""

    dim = 16

    def __init__(self, model: nn.Module, prefix: int = 0) -> None:
        super().__init__(layers=[-1])
        self.processor = Wave()
        self.model, self.prefix = model, prefix
        self.freeze()

    def hook_points(self) -> BlockHooks:
        """Of its blocks."""
        return BlockHooks(blocks_of(self.model, 3), self.dim, self.scope)

    def hidden(self, layout: TokenLayout, block: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """What leaves the last block."""
        seen: list[Tensor] = []
        handle = block.register_forward_hook(lambda _, __, out: seen.append(out))
        with torch.set_grad_enabled(self.learns()), self.laid_out(layout):
            self.model(*args, **kwargs)
        handle.remove()
        return seen[0]


class Waves(Sound):
    """wav2vec2 that takes a mask: padding changes nothing."""

    def __init__(self) -> None:
        config = transformers.Wav2Vec2Config(
            **SMALL, do_stable_layer_norm=True, feat_extract_norm="layer", conv_dim=(16, 16), conv_stride=(4, 4),
            conv_kernel=(8, 4), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, apply_spec_augment=False,
            conv_bias=True,
        )  # fmt: skip
        super().__init__(transformers.Wav2Vec2Model(config))

    def forward(self, **inputs: Tensor) -> Features:
        """float[N, most steps, 16]."""
        lengths = inputs["lengths"]
        steps = self.model._get_feat_extract_output_lengths(lengths)  # type: ignore[operator]
        mask = torch.arange(int(steps.max())) < steps[:, None]
        layout = TokenLayout((1,) * len(lengths), (int(steps.max()),), 0, mask)
        attention = (torch.arange(inputs["wave"].shape[1]) < lengths[:, None]).long()
        wave = inputs["wave"].to(next(self.model.parameters()).dtype)
        block = self.model.get_submodule("encoder.layers.2")
        states = self.hidden(layout, block, wave, attention_mask=attention)
        grids = tuple((int(n),) for n in steps)
        return Features({-1: states.masked_fill(~mask[..., None], 0)}, mask, (int(steps.max()),), grids)


class Bands(Sound):
    """AST: two bands of four steps behind two class tokens, all of one length."""

    def __init__(self) -> None:
        sizes = {"max_length": 32, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8}
        super().__init__(transformers.ASTModel(transformers.ASTConfig(**SMALL, **sizes)), prefix=2)

    def forward(self, **inputs: Tensor) -> Features:
        """float[N, 8, 16]."""
        mels = inputs["wave"].to(next(self.model.parameters()).dtype)
        layout = TokenLayout((1,) * len(mels), (2, 4), 2)
        states = self.hidden(layout, blocks_of(self.model, 3)[2], mels)[:, 2:]
        return Features({-1: states}, torch.ones(states.shape[:2], dtype=torch.bool), (2, 4))


class Whispered(Sound):
    """Whisper's encoder, which knows no padding."""

    def __init__(self) -> None:
        config = transformers.WhisperConfig(
            d_model=16, encoder_layers=3, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=16, num_mel_bins=8, max_source_positions=12,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )  # fmt: skip
        super().__init__(transformers.WhisperModel(config).encoder)

    def forward(self, **inputs: Tensor) -> Features:
        """float[N, 12, 16]."""
        mels = inputs["wave"].to(next(self.model.parameters()).dtype)
        layout = TokenLayout((1,) * len(mels), (12,), 0)
        states = self.hidden(layout, self.model.get_submodule("layers.2"), mels)
        return Features({-1: states}, torch.ones(states.shape[:2], dtype=torch.bool), (12,))


def drawn(*shapes: tuple[int, ...]) -> Callable[[], list[Any]]:
    """Makes tensors of these shapes, always the same."""

    def make() -> list[Any]:
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(*shape, generator=generator) for shape in shapes]

    return make


FAKES: dict[str, TinyEncoder] = {
    "clips": TinyEncoder(Clips, drawn((3, 3, 32, 32), (1, 3, 32, 32), (4, 3, 32, 32))),
    "wav2vec2": TinyEncoder(Waves, drawn((160,), (96,), (240,))),
    "ast": TinyEncoder(Bands, drawn(*[(32, 16)] * 3)),
    "whisper": TinyEncoder(Whispered, drawn(*[(8, 24)] * 3)),
}
"""Name -> how it is made, and its media."""
