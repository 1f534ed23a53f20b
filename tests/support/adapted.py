"""What the tests of adapters inside encoders walk: every adapter with its settings, and encoders of many libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from mmllm import registry
from mmllm.connectors.base import Connector
from mmllm.connectors.encoder_adapters.adaptformer import AdaptformerConnector
from mmllm.connectors.encoder_adapters.audio_adapter_fusion import AudioAdapterFusionConnector
from mmllm.connectors.encoder_adapters.conformer_adapter import ConformerAdapterConnector
from mmllm.connectors.encoder_adapters.mixture_of_adapters import MixtureOfAdaptersConnector
from mmllm.connectors.encoder_adapters.ted_adapter import TedAdapterConnector
from mmllm.connectors.encoder_adapters.vl_adapter import VlAdapterConnector
from mmllm.encoders.base import Encoder
from mmllm.encoders.blocks import blocks_of
from mmllm.encoders.hook_points import EncoderHookPoints
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.errors import MmllmError
from mmllm.types import EncoderPass, Features

LLM = SimpleNamespace(dim=32)
ADAPTERS = [
    name
    for name in registry.table("connectors")
    if "adapt" in registry.methods("connectors", name)
    and not {"attach", "forward"} & registry.methods("connectors", name)
]
"""Registered connectors that work inside encoders and nowhere else."""
TASKS = {"one": ["captions"], "two": ["instruct"]}
SETTINGS: dict[str, Callable[[], Connector]] = {
    "ted_adapter enhancement": partial(TedAdapterConnector, llm_dim=32, width=4, difference=False),
    "ted_adapter difference": partial(TedAdapterConnector, llm_dim=32, width=4, enhancement=False, places="mlp"),
    "adaptformer normed": partial(AdaptformerConnector, llm_dim=32, width=4, scale=1.0, reads="normed", dropout=0.0),
    "adaptformer top half": partial(AdaptformerConnector, llm_dim=32, width=4, dropout=0.0, blocks="top half"),
    "vl_adapter own": partial(VlAdapterConnector, llm_dim=32, reduction=4, share="none", blocks=[0, 2]),
    "vl_adapter drawn": partial(VlAdapterConnector, llm_dim=32, reduction=4, start="drawn"),
    "conformer_adapter layer norm": partial(ConformerAdapterConnector, llm_dim=32, reduction=4, kernel=3, norm="layer"),
    "mixture_of_adapters medium": partial(MixtureOfAdaptersConnector, llm_dim=32, width=4, gate="medium"),
    "mixture_of_adapters one": partial(MixtureOfAdaptersConnector, llm_dim=32, width=4, experts=1, own=0),
    "audio_adapter_fusion uniform": partial(
        AudioAdapterFusionConnector, llm_dim=32, tasks=TASKS, width=4, alpha="uniform"
    ),
    "audio_adapter_fusion attention": partial(
        AudioAdapterFusionConnector, llm_dim=32, tasks=TASKS, width=4, alpha="attention"
    ),
}


def variant(name: str) -> Connector:
    """A new one; its weights come with ``adapt``."""
    return SETTINGS[name]() if name in SETTINGS else registry.load("connectors", name).tiny(0, LLM)


class Clips(Encoder):
    """Frames of clips of different lengths through a picture encoder, frame after frame: each frame a row."""

    modality = "video"

    def __init__(self) -> None:
        super().__init__(layers=[-1])
        self.frames = HfVisionEncoder.tiny()
        self.dim = self.frames.dim
        self.freeze()

    def read(self, media: Any) -> dict[str, Tensor]:
        """float[frames, 3, H, W] as it is."""
        return {"pixels": media}

    def grid(self, inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
        """(time, rows, cols)."""
        return (len(inputs["pixels"]), *self.frames.fixed_grid())

    def collate(self, items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """All frames, and how many each clip has."""
        lengths = torch.tensor([len(item["pixels"]) for item in items])
        return {"pixels": torch.cat([item["pixels"] for item in items]), "lengths": lengths}

    def forward(self, **inputs: Tensor) -> Features:
        """float[N, most frames * rows * cols, D]."""
        rows, grid = tuple(inputs["lengths"].tolist()), self.frames.fixed_grid()
        self.now = EncoderPass(rows, grid, self.frames.prefix)
        with torch.set_grad_enabled(self.learns()):
            states = self.frames.hidden(inputs["pixels"], self.resolve(self.frames.n_blocks))[0]
        tokens = [item[:, self.frames.prefix :].flatten(0, 1) for item in states.split(rows)]
        padded = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        size = grid[0] * grid[1]
        mask = torch.arange(padded.shape[1]) < torch.tensor(rows)[:, None] * size
        return Features({-1: padded}, mask, (max(rows), *grid), tuple((n, *grid) for n in rows))

    def inside(self) -> EncoderHookPoints:
        """Of the picture encoder."""
        return self.frames.inside()

    def tiny_media(self) -> list[Any]:
        """Clips of 3, 1 and 4 frames."""
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(n, 3, 32, 32, generator=generator) for n in (3, 1, 4)]


class Sound(Encoder):
    """A tiny sound model; items of different lengths are padded, and where the model takes a mask it gets it."""

    modality = "audio"
    dim = 16

    def __init__(self, model: nn.Module, prefix: int = 0) -> None:
        super().__init__(layers=[-1])
        self.model, self.prefix = model, prefix
        self.freeze()

    def collate(self, items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Padded with zeros at the end, and the true lengths."""
        waves = [item["wave"] for item in items]
        lengths = torch.tensor([len(wave) for wave in waves])
        return {"wave": nn.utils.rnn.pad_sequence(waves, batch_first=True), "lengths": lengths}

    def read(self, media: Any) -> dict[str, Tensor]:
        """A wave as it is."""
        return {"wave": media}

    def inside(self) -> EncoderHookPoints:
        """Of its blocks."""
        return EncoderHookPoints(blocks_of(self.model, 3), self.dim)

    def hidden(self, block: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """What leaves the last block."""
        seen: list[Tensor] = []
        handle = block.register_forward_hook(lambda _, __, out: seen.append(out))
        with torch.set_grad_enabled(self.learns()):
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
        self.now = EncoderPass((1,) * len(lengths), (int(steps.max()),), 0, mask)
        attention = (torch.arange(inputs["wave"].shape[1]) < lengths[:, None]).long()
        wave = inputs["wave"].to(next(self.model.parameters()).dtype)
        block = self.model.get_submodule("encoder.layers.2")
        states = self.hidden(block, wave, attention_mask=attention)
        grids = tuple((int(n),) for n in steps)
        return Features({-1: states.masked_fill(~mask[..., None], 0)}, mask, (int(steps.max()),), grids)

    def tiny_media(self) -> list[Any]:
        """Waves of three lengths."""
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(n, generator=generator) for n in (160, 96, 240)]


class Bands(Sound):
    """AST: two bands of four steps behind two class tokens, all of one length."""

    def __init__(self) -> None:
        sizes = {"max_length": 32, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8}
        super().__init__(transformers.ASTModel(transformers.ASTConfig(**SMALL, **sizes)), prefix=2)

    def forward(self, **inputs: Tensor) -> Features:
        """float[N, 8, 16]."""
        mels = inputs["wave"].to(next(self.model.parameters()).dtype)
        self.now = EncoderPass((1,) * len(mels), (2, 4), 2)
        states = self.hidden(blocks_of(self.model, 3)[2], mels)[:, 2:]
        return Features({-1: states}, torch.ones(states.shape[:2], dtype=torch.bool), (2, 4))

    def tiny_media(self) -> list[Any]:
        """Three spectrograms."""
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(32, 16, generator=generator) for _ in range(3)]


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
        self.now = EncoderPass((1,) * len(mels), (12,), 0)
        states = self.hidden(self.model.get_submodule("layers.2"), mels)
        return Features({-1: states}, torch.ones(states.shape[:2], dtype=torch.bool), (12,))

    def tiny_media(self) -> list[Any]:
        """Three spectrograms."""
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(8, 24, generator=generator) for _ in range(3)]


SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
FAKES: dict[str, Callable[[], Encoder]] = {"clips": Clips, "wav2vec2": Waves, "ast": Bands, "whisper": Whispered}


@cache
def registered() -> tuple[str, ...]:
    """Encoders of the registry whose blocks a connector can work inside."""
    found = []
    for name in sorted(registry.table("encoders")):
        try:
            registry.load("encoders", name).tiny().inside().parts(0)
        except MmllmError:
            continue
        found.append(name)
    return tuple(found)


@cache
def encoder(name: str) -> Encoder:
    """A random one read after its last block; always the same object: adapters must leave it as it was."""
    torch.manual_seed(0)
    made = FAKES[name]() if name in FAKES else registry.load("encoders", name).tiny()
    made.layers = (-1,)
    return made


@cache
def items_of(name: str) -> list[dict[str, Tensor]]:
    """Its three tiny items, read."""
    frozen = encoder(name)
    return [frozen.read(media) for media in frozen.tiny_media()]


def inputs_of(name: str, numbers: Sequence[int] = (0, 1, 2)) -> dict[str, Tensor]:
    """Collated inputs of some of them."""
    return encoder(name).collate([items_of(name)[number] for number in numbers])
