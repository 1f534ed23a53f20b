"""Tiny encoders, random but always the same, loaded from folders like real ones; and media for them."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import soundfile
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from mmllm.encoders.audio.hf_audio import HfAudioEncoder
from mmllm.encoders.audio.waveform import WaveformEncoder
from mmllm.encoders.base import Encoder
from mmllm.encoders.document import DocumentEncoder
from mmllm.encoders.graph.text_graph import TextGraphEncoder
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.encoders.image.mllama_vision import MllamaVisionEncoder
from mmllm.encoders.image.native.hf_native import HfNativeEncoder
from mmllm.encoders.image.open_clip import OpenClipEncoder
from mmllm.encoders.image.patches import PatchesEncoder
from mmllm.encoders.image.sam.hf_sam import HfSamEncoder
from mmllm.encoders.image.tiles import TilesEncoder
from mmllm.encoders.points.points import PointsEncoder
from mmllm.encoders.video.frames import FramesEncoder
from mmllm.encoders.video.hf_video import HfVideoEncoder
from mmllm.processors.decoding.video_writing import mp4
from mmllm.types import Layer


@dataclass(frozen=True)
class TinyEncoder:
    """A small encoder for tests, and what it may be shown."""

    make: Callable[..., Encoder]
    """Makes it; takes other ``layers`` where it has any."""
    media: Callable[[], list[Any]]
    """Three items that differ, as its processor reads them."""
    has_blocks: bool = True
    """Whether it is a model with 3 blocks; else it has no weights."""
    numbered: bool = True
    """Whether it gives layers by their numbers, of three blocks; else its own output alone."""


@contextmanager
def seeded_folder() -> Iterator[str]:
    """A folder for a random model: the same weights each time, and the random state as it was afterwards.

    It is there until this process ends: a pickled processor knows its tokenizer by the folder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield tempfile.mkdtemp(dir=_root().name)


@cache
def _root() -> tempfile.TemporaryDirectory[str]:
    """Holds the folders; removed with the process."""
    return tempfile.TemporaryDirectory(prefix="mmllm-tiny-")


def hf_vision(layers: Sequence[Layer] = (-2,)) -> HfVisionEncoder:
    """A DINOv2 with registers: 3 blocks, width 16, 32 x 32 pixels in 4 x 4 patches."""
    with seeded_folder() as folder:
        write_vision(folder)
        return HfVisionEncoder(model=folder, layers=layers)


def write_vision(folder: str) -> None:
    """The folder of :func:`hf_vision`."""
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2,
        image_size=32, patch_size=8, num_register_tokens=2,
    )  # fmt: skip
    transformers.Dinov2WithRegistersModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)


def hf_native(layers: Sequence[Layer] = (-2,)) -> HfNativeEncoder:
    """A SigLIP 2 NaFlex: 3 blocks, width 16, pictures of at most 24 patches of 8 x 8."""
    with seeded_folder() as folder:
        write_native(folder)
        return HfNativeEncoder(model=folder, layers=layers)


def write_native(folder: str) -> None:
    """The folder of :func:`hf_native`."""
    config = transformers.Siglip2VisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, num_patches=16, patch_size=8,
        vision_use_head=False,
    )  # fmt: skip
    transformers.Siglip2VisionModel(config).save_pretrained(folder)
    transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=24).save_pretrained(folder)


def hf_video(layers: Sequence[Layer] = (-2,)) -> HfVideoEncoder:
    """A Qwen2.5-VL tower: 3 blocks, width 16, patches of 8 x 8 on two frames, at most 3 frames, 5 per second."""
    with seeded_folder() as folder:
        write_video(folder)
        return HfVideoEncoder(model=folder, layers=layers, frames=3, fps=5.0)


def write_video(folder: str) -> None:
    """The folder of :func:`hf_video`."""
    config = transformers.AutoConfig.for_model(
        "qwen2_5_vl_vision", depth=3, hidden_size=16, out_hidden_size=16, intermediate_size=32, num_heads=2,
        patch_size=8, window_size=32, fullatt_block_indexes=[1],
    )  # fmt: skip
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    bounds = {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
    transformers.Qwen2VLVideoProcessor(patch_size=8, size=bounds).save_pretrained(folder)
    transformers.Qwen2VLImageProcessor(patch_size=8, size=bounds).save_pretrained(folder)


def hf_sam(layers: Sequence[Layer] = (-2,)) -> HfSamEncoder:
    """A SAM: 3 blocks, width 16, 32 x 32 pixels in 4 x 4 patches, windows of 3 x 3 in all but one block."""
    config = transformers.SamVisionConfig(
        hidden_size=16, output_channels=8, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8,
        mlp_dim=32, window_size=3, global_attn_indexes=[1], num_pos_feats=4,
    )  # fmt: skip
    with seeded_folder() as folder:
        model = transformers.SamVisionModel(config)
        with torch.no_grad():  # larger than the usual init, so that features of different pictures differ
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
        size, pad = {"longest_edge": 32}, {"height": 32, "width": 32}
        transformers.SamImageProcessor(size=size, pad_size=pad).save_pretrained(folder)
        return HfSamEncoder(model=folder, layers=layers)


def patches() -> PatchesEncoder:
    """Patches of 8 x 8 pixels, at most 4 rows of 6."""
    return PatchesEncoder(patch=8, longest=(32, 48))


def open_clip_tower(layers: Sequence[Layer] = (-2,)) -> OpenClipEncoder:
    """A CLIP: 3 blocks, width 16, 32 x 32 pixels in 4 x 4 patches."""
    vision = {"image_size": 32, "patch_size": 8, "width": 16, "head_width": 8, "layers": 3}
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
    with seeded_folder() as folder:
        write_clip(folder, vision, text)
        return OpenClipEncoder(model=folder, layers=layers)


def write_clip(folder: str, vision: dict[str, int], text: dict[str, int]) -> None:
    """A folder of open_clip with random weights."""
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    save_file(open_clip.CLIP(**config).state_dict(), Path(folder, "open_clip_model.safetensors"))
    Path(folder, "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))


def hf_audio(layers: Sequence[Layer] = (-1,)) -> HfAudioEncoder:
    """A Whisper: 3 blocks, width 16, windows of 1 second of 50 tokens."""
    config = transformers.WhisperConfig(
        vocab_size=2, num_mel_bins=16, d_model=16, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_layers=0, decoder_attention_heads=2, decoder_ffn_dim=4, max_source_positions=50,
        max_target_positions=1, pad_token_id=0, bos_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    with seeded_folder() as folder:
        transformers.WhisperModel(config).save_pretrained(folder)
        transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(folder)
        return HfAudioEncoder(model=folder, layers=layers)


def waveform() -> WaveformEncoder:
    """Frames of 16 raw samples, 200 a second."""
    return WaveformEncoder(samples=16, rate=3200)


def text_graph(layers: Sequence[Layer] = (-2,)) -> TextGraphEncoder:
    """A Llama of 3 blocks and width 16 over bytes."""
    with seeded_folder() as folder:
        write_text_model(folder)
        return TextGraphEncoder(model=folder, layers=layers)


def write_text_model(folder: str) -> None:
    """The folder of :func:`text_graph`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"vocab_size": 256, "hidden_size": 16, "intermediate_size": 32}
        config = transformers.LlamaConfig(**sizes, num_hidden_layers=3, num_attention_heads=2)
        transformers.LlamaModel(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def frames(layers: Sequence[Layer] = (-2,)) -> FramesEncoder:
    """:func:`hf_vision` on at most 3 frames, 5 per second: clips differ in their number of frames."""
    with seeded_folder() as folder:
        write_vision(folder)
        return FramesEncoder(image={"type": "hf_vision", "model": folder, "layers": layers}, frames=3, fps=5.0)


def tiles(layers: Sequence[Layer] = (-2,)) -> TilesEncoder:
    """:func:`hf_vision` on at most 4 tiles and all of a picture: pictures differ in their number of tiles."""
    with seeded_folder() as folder:
        write_vision(folder)
        return TilesEncoder(image={"type": "hf_vision", "model": folder, "layers": layers}, most=4)


def mllama_vision() -> MllamaVisionEncoder:
    """Llama 3.2 Vision's tower: 2 blocks and a global one, 4 tiles of 16 x 16 pixels and 5 tokens, 16 wide and 16."""
    with seeded_folder() as folder:
        config = transformers.MllamaConfig(
            vision_config={
                "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_global_layers": 1,
                "attention_heads": 2, "image_size": 16, "patch_size": 8, "intermediate_layers_indices": [0],
                "vision_output_dim": 32,
            },
            text_config={
                "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "num_key_value_heads": 1, "vocab_size": 16, "cross_attention_layers": [], "pad_token_id": 0,
            },
        )  # fmt: skip
        model = transformers.MllamaForConditionalGeneration(config)
        with torch.no_grad():  # the gates of tile embeddings are zero at first
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
        transformers.MllamaImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
        return MllamaVisionEncoder(model=folder)


def points(layers: Sequence[Layer] = (-1,)) -> PointsEncoder:
    """A CLIP's text tower: 3 blocks of width 16, 8 positions; 32 points, 8 tokens."""
    vision = {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 1}
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 3}
    with seeded_folder() as folder:
        write_clip(folder, vision, text)
        return PointsEncoder(model=folder, points=32, tokens=8, layers=layers)


def document(layers: Sequence[Layer] = (-1,)) -> DocumentEncoder:
    """A Llama: 3 blocks of width 16, a word-level tokenizer of 32 words."""
    words = ["[UNK]", *(f"w{n}" for n in range(27)), "tea", "milk", "3", "7"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, vocab_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    with seeded_folder() as folder:
        model = transformers.LlamaModel(config)
        with torch.no_grad():  # larger than the usual init, so that features of different texts differ
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
        return DocumentEncoder(model=folder, max_tokens=48, layers=layers)


def pictures() -> list[Any]:
    """A picture with a coloured side, the same turned, and one of another shape and colour."""
    left = Image.new("RGB", (48, 48), "white")
    left.paste((200, 30, 30), (0, 0, 24, 48))
    return [left, left.rotate(180), Image.new("RGB", (60, 30), "navy")]


def sounds() -> list[bytes]:
    """Three WAV files: a tone, a longer noise, a rising tone."""
    noise = np.random.default_rng(0).normal(0, 0.1, 11_000)
    time = np.arange(6000) / 8000
    tones = 0.3 * np.sin(2 * np.pi * 440 * time[:2500]), 0.2 * np.sin(3000 * time**2 + time)
    return [wav(tones[0]), wav(noise), wav(tones[1])]


def wav(samples: Any, rate: int = 8000) -> bytes:
    """The samples, in -1 .. 1, as the bytes of a WAV file of 16 bits."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def graphs() -> list[bytes]:
    """A triangle, a chain seen from its end, and one node alone."""
    written: list[dict[str, Any]] = [
        {"nodes": ["tea", "milk", {"text": "bread"}], "edges": [[0, 1], [1, 2], [2, 0]]},
        {"nodes": ["red", "blue", "green", "gray"], "edges": [[0, 1], [1, 2], [2, 3]], "target": 3},
        {"nodes": ["a stone"], "edges": []},
    ]
    return [json.dumps(graph).encode() for graph in written]


def clips() -> list[bytes]:
    """Three mp4 files: a bar that moves over 3 frames, another colour over 2, a still one of 1."""
    return [clip((200, 30, 30), 3), clip((30, 30, 200), 2), clip((30, 160, 30), 1)]


def clip(colour: tuple[int, int, int], n_frames: int) -> bytes:
    """An mp4 file of 32 x 32 pixels, 5 frames a second: a bar of that colour moves over white."""
    pixels = np.full((n_frames, 32, 32, 3), 255, np.uint8)
    for number, frame in enumerate(pixels):
        frame[:, 8 * number : 8 * number + 12] = colour
    return mp4(pixels, [number / 5 for number in range(n_frames)])


def clouds() -> list[torch.Tensor]:
    """A cube's corners and edges, a line, a bent sheet."""
    steps = torch.linspace(-1, 1, 4)
    cube = torch.cartesian_prod(steps, steps, steps)
    line = torch.stack([torch.linspace(0, 1, 20), torch.zeros(20), torch.zeros(20)], dim=1)
    sheet = torch.cartesian_prod(torch.linspace(0, 3, 12), torch.linspace(0, 1, 5))
    return [cube, line, torch.cat([sheet, sheet[:, :1] ** 2], dim=1)]


def documents() -> list[str | bytes]:
    """Three documents of different lengths."""
    return ["tea 3", "milk 7 tea 3 w1", b"w5 w6 w7 w8 w9 tea 7"]


TINY: dict[str, TinyEncoder] = {
    "hf_vision": TinyEncoder(hf_vision, pictures),
    "hf_native": TinyEncoder(hf_native, pictures),
    "hf_sam": TinyEncoder(hf_sam, pictures),
    "patches": TinyEncoder(patches, pictures, has_blocks=False),
    "open_clip": TinyEncoder(open_clip_tower, pictures),
    "hf_audio": TinyEncoder(hf_audio, sounds),
    "waveform": TinyEncoder(waveform, sounds, has_blocks=False),
    "text_graph": TinyEncoder(text_graph, graphs),
    "mllama_vision": TinyEncoder(mllama_vision, pictures, numbered=False),
    "frames": TinyEncoder(frames, clips),
    "hf_video": TinyEncoder(hf_video, clips),
    "tiles": TinyEncoder(tiles, pictures),
    "points": TinyEncoder(points, clouds),
    "document": TinyEncoder(document, documents),
}
"""Registry name -> how it is made, and its media."""
