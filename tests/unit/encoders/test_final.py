"""``layers: [final]`` of every encoder is the library's own state after the last norm, and stands beside numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from mmllm.encoders.audio.hf_audio import HfAudioEncoder
from mmllm.encoders.base import Encoder
from mmllm.encoders.document import DocumentEncoder
from mmllm.encoders.graph.text_graph import TextGraphEncoder
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.encoders.image.mllama_vision import MllamaVisionEncoder
from mmllm.encoders.image.native.hf_native import HfNativeEncoder
from mmllm.encoders.image.open_clip import OpenClipEncoder
from mmllm.encoders.image.tiles import TilesEncoder
from mmllm.encoders.points.points import PointsEncoder
from mmllm.encoders.video.frames import FramesEncoder
from mmllm.errors import MmllmError
from mmllm.testing.tiny.encoders import TINY, write_clip
from mmllm.types import Features
from tests.support.stand_ins import open_clip_folder
from tests.unit.encoders.audio.test_hf_audio import made, sound
from tests.unit.encoders.image.test_hf_vision import KINDS as VISION
from tests.unit.encoders.image.test_hf_vision import folder as vision_folder

Given = dict[str, Tensor]


def stirred(module: Any) -> Any:
    """Weights moved at random, so that norms are no plain ones."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module


def read(encoder: Encoder, media: Sequence[Any]) -> Given:
    return encoder.processor.collate([encoder.processor.read(item) for item in media])


def rows(features: Features, layer: Any = "final") -> list[Tensor]:
    """Real tokens of each item."""
    return [row[mask] for row, mask in zip(features.layers[layer], features.mask, strict=True)]


def of_vision(encoder: HfVisionEncoder, given: Given) -> list[Tensor]:
    return list(encoder.vision(pixel_values=given["pixels"]).last_hidden_state[:, encoder.prefix :])


def of_native(encoder: HfNativeEncoder, given: Given) -> list[Tensor]:
    """The tower's own forward, which pads, on its own attention."""
    grids = given["grids"]
    each = given["patches"].split(grids.prod(dim=1).tolist())
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(one), dtype=torch.int32) for one in each], True)
    padded = torch.nn.utils.rnn.pad_sequence(list(each), True)
    packed = encoder.vision.config._attn_implementation
    encoder.vision.set_attn_implementation("sdpa")
    found = encoder.vision(padded, mask, grids).last_hidden_state
    encoder.vision.set_attn_implementation(packed)
    return [row[: len(one)] for row, one in zip(found, each, strict=True)]


def of_open_clip(encoder: OpenClipEncoder, given: Given) -> list[Tensor]:
    found = encoder.visual.forward_intermediates(
        given["pixels"], indices=1, normalize_intermediates=True, output_fmt="NLC", intermediates_only=True
    )
    return list(found["image_intermediates"][-1])


def of_audio(encoder: HfAudioEncoder, given: Given) -> list[Tensor]:
    windows = iter(encoder.audio.net(given["windows"]).last_hidden_state)
    counts = [encoder.processor.counts(int(n)) for n in given["samples"]]
    return [torch.cat([next(windows)[:count] for count in item]) for item in counts]


def of_graph(encoder: TextGraphEncoder, given: Given) -> list[Tensor]:
    assert encoder.text is not None
    states = [encoder.text.model(input_ids=ids[ids >= 0][None]).last_hidden_state[0, -1] for ids in given["ids"]]
    return list(torch.stack(states).split((given["nodes"] >= 0).sum(dim=1).tolist()))


def of_frames(encoder: FramesEncoder | TilesEncoder, given: Given) -> list[Tensor]:
    assert isinstance(encoder.image, HfVisionEncoder)
    frames = torch.stack(of_vision(encoder.image, given))
    return [frames[:count].flatten(0, 1) for count, frames in counted(given["counts"], frames)]


def counted(counts: Tensor, frames: Tensor) -> list[tuple[int, Tensor]]:
    sizes = counts.tolist()
    return list(zip(sizes, frames.split(sizes), strict=True))


def of_points(encoder: PointsEncoder, given: Given) -> list[Tensor]:
    norm = encoder.backbone.norm
    assert isinstance(norm, nn.LayerNorm)
    encoder.layers = (-1,)
    last = encoder(**given).layers[-1]
    encoder.layers = ("final",)
    return list(layer_norm(last, (16,), norm.weight, norm.bias, norm.eps))


def of_document(encoder: DocumentEncoder, given: Given) -> list[Tensor]:
    pairs = zip(given["ids"], given["lengths"].tolist(), strict=True)
    return [encoder.model(input_ids=ids[None, :length]).last_hidden_state[0] for ids, length in pairs]


def of_canvas(encoder: MllamaVisionEncoder, given: Given) -> list[Tensor]:
    real = torch.arange(4) < given["tiles"][:, None]
    ids = given["aspect"][:, None]
    found = encoder.vision(
        pixel_values=given["pixels"][:, None], aspect_ratio_ids=ids, aspect_ratio_mask=real.long()[:, None]
    )
    return list(found.last_hidden_state.flatten(1, 3))


OWN: dict[str, Callable[[Any, Given], list[Tensor]]] = {
    "hf_vision": of_vision,
    "hf_native": of_native,
    "open_clip": of_open_clip,
    "hf_audio": of_audio,
    "text_graph": of_graph,
    "frames": of_frames,
    "tiles": of_frames,
    "mllama_vision": of_canvas,
    "points": of_points,
    "document": of_document,
}
"""Registry name -> the library's own state after the last norm, of each item."""


def test_every_tiny_encoder_is_compared() -> None:
    # of hf_sam, which is of another width than its layers, in image/test_hf_sam.py; hf_video runs towers of hf_native
    assert {*OWN, "hf_sam", "hf_video"} == {name for name, one in TINY.items() if one.has_blocks}


@pytest.mark.parametrize("name", OWN)
@torch.no_grad()
def test_final_is_the_librarys_own_state_and_not_the_last_layer(name: str) -> None:
    encoder = stirred(TINY[name].make(**({"layers": ["final"]} if TINY[name].numbered else {})))
    given = read(encoder, TINY[name].media())
    features = encoder(**given)
    assert list(features.layers) == ["final"]
    for found, expected in zip(rows(features), OWN[name](encoder, given), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if not TINY[name].numbered:
        return
    encoder.layers = (-2, "final", -1)
    both = encoder(**given)
    assert list(both.layers) == [-2, "final", -1] and both.concatenated().shape[-1] == 3 * encoder.dim
    assert torch.equal(both.layers["final"], features.layers["final"])
    assert not torch.allclose(both.layers["final"], both.layers[-1], atol=1e-3)


@pytest.mark.parametrize("kind", VISION)
@torch.no_grad()
def test_final_of_each_vision_model(kind: str, tmp_path: Path) -> None:
    name, changes, prefix = VISION[kind]
    path, model = vision_folder(tmp_path, name, changes)
    pixels = torch.randn(2, 3, 28, 28)
    found = HfVisionEncoder(model=str(path), layers=["final"])(pixels=pixels).layers["final"]
    expected = model(pixel_values=pixels).last_hidden_state
    if name == "CLIPVision":  # its last_hidden_state is not normed; OWL-ViT norms all tokens of one by this same norm
        expected = model.post_layernorm(expected)
        pooled = model(pixel_values=pixels).pooler_output
        torch.testing.assert_close(expected[:, 0], pooled)
    torch.testing.assert_close(found, expected[:, prefix:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["whisper", "ast", "wav2vec2", "wav2vec2 group", "hubert", "hubert group"])
@torch.no_grad()
def test_final_of_each_audio_model(kind: str, tmp_path: Path) -> None:
    model, extractor = made(kind)
    stirred(model.eval()).save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    encoder = HfAudioEncoder(model=str(tmp_path), layers=["final", -1], frequencies="keep")
    features = encoder(**read(encoder, [sound(0.8)]))
    net = hf.AutoModel.from_pretrained(tmp_path)
    net = net.encoder if kind == "whisper" else net
    inputs = encoder.processor.read(sound(0.8))["windows"]
    expected = net(inputs).last_hidden_state[0, encoder.audio.prefix :]
    if kind == "ast":  # frequency x time -> time x frequency
        bands = encoder.audio.front_end.raster[0]
        expected = expected.unflatten(0, (bands, -1)).transpose(0, 1).flatten(0, 1)
    found = rows(features)[0]
    torch.testing.assert_close(found, expected[: len(found)], rtol=1e-4, atol=1e-4)
    # the base models norm in each block and have none behind the last
    assert torch.equal(found, rows(features, -1)[0]) == ("group" in kind)


def test_final_of_a_wave_model_stands_before_an_adapter_that_shortens(tmp_path: Path) -> None:
    model, extractor = made("wav2vec2")
    config = model.config
    config.add_adapter, config.num_adapter_layers = True, 1
    hf.Wav2Vec2Model(config).save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    encoder = HfAudioEncoder(model=str(tmp_path), layers=["final", 0])
    features = encoder(**read(encoder, [sound(0.5)]))
    assert features.layers["final"].shape == features.layers[0].shape


TEXTS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (hf.LlamaConfig, hf.LlamaModel, {"intermediate_size": 24}),
    "gpt2": (hf.GPT2Config, hf.GPT2Model, {}),
    "bert": (hf.BertConfig, hf.BertModel, {"intermediate_size": 24}),
    "modernbert": (hf.ModernBertConfig, hf.ModernBertModel, {"intermediate_size": 24}),
    "clip_text_model": (hf.CLIPTextConfig, hf.CLIPTextModel, {"intermediate_size": 24}),
}
SIZES = {
    "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64,
}  # fmt: skip


def text_folder(kind: str, tmp: Path) -> Path:
    """A random text model with the tokenizer of the tiny document encoder."""
    config, model, more = TEXTS[kind]
    torch.manual_seed(0)
    stirred(model(config(**SIZES, **more))).save_pretrained(tmp)
    document: Any = TINY["document"].make()
    document.processor.tokenizer.loaded.save_pretrained(tmp)
    return tmp


@pytest.mark.parametrize("kind", [kind for kind in TEXTS if kind != "clip_text_model"])
@torch.no_grad()
def test_final_of_each_text_model_as_a_document(kind: str, tmp_path: Path) -> None:
    encoder = DocumentEncoder(model=str(text_folder(kind, tmp_path)), layers=["final", -1], max_tokens=16)
    given = read(encoder, ["tea 3 milk", "milk 7 tea 3 w1"])
    features = encoder(**given)
    model = hf.AutoModel.from_pretrained(tmp_path)
    for found, ids in zip(rows(features), given["ids"], strict=True):
        expected = model(input_ids=ids[None, : len(found)]).last_hidden_state[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(features.layers["final"], features.layers[-1]) == (kind == "bert")


@pytest.mark.parametrize("kind", TEXTS)
@torch.no_grad()
def test_final_of_each_text_model_in_a_graph(kind: str, tmp_path: Path) -> None:
    encoder = TextGraphEncoder(model=str(text_folder(kind, tmp_path)), layers=["final"], pool="mean")
    given = read(encoder, [b'{"nodes": ["tea milk", "w1 w2"], "edges": [[0, 1]]}'])
    model = hf.AutoModel.from_pretrained(tmp_path)
    expected = [model(input_ids=ids[None]).last_hidden_state[0].mean(dim=0) for ids in given["ids"]]
    torch.testing.assert_close(rows(encoder(**given))[0], torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_given_states_of_nodes_have_no_norm() -> None:
    with pytest.raises(MmllmError, match="given states are of one layer; leave the word out"):
        TextGraphEncoder(width=8, layers=["final"])


@torch.no_grad()
def test_final_of_a_timm_tower(tmp_path: Path) -> None:
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "avg", "timm_proj": "linear", "image_size": 224}
    original = open_clip_folder(tmp_path, vision, custom_text=True)
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    found = OpenClipEncoder(model=str(tmp_path), layers=["final"])(pixels=pixels).layers["final"]
    trunk = original.visual.trunk
    expected = trunk.forward_features(pixels)[:, trunk.num_prefix_tokens :]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_norm_that_is_not_for_patches_is_refused(tmp_path: Path) -> None:
    open_clip_folder(tmp_path, {"attentional_pool": True, "attn_pooler_heads": 4})
    with pytest.raises(MmllmError, match="has no norm for patches; name layer -1"):
        OpenClipEncoder(model=str(tmp_path), layers=["final"])


POINTS: dict[str, tuple[str, str, str | None]] = {
    "clip_text_model": ("language", "final_layer_norm", None),
    "bert": ("language", "", None),
    "vit": ("image", "layernorm", "ViT"),
    "clip_vision": ("image", "post_layernorm", "CLIPVision"),
    "whisper": ("audio", "encoder.layer_norm", None),
    "ast": ("audio", "layernorm", None),
}
"""Source of a points encoder's blocks -> its ``backbone``, and the name of the norm in transformers' model."""


@pytest.mark.parametrize("source", POINTS)
@torch.no_grad()
def test_final_of_points_is_normed_as_the_source_norms(source: str, tmp_path: Path) -> None:
    backbone, norm, vision = POINTS[source]
    if backbone == "language":
        text_folder(source, tmp_path)
    elif vision:
        vision_folder(tmp_path, vision, {})
    else:
        stirred(made(source)[0]).save_pretrained(tmp_path)
    words: dict[str, Any] = {"model": str(tmp_path), "backbone": backbone, "points": 32, "tokens": 8}
    encoder = PointsEncoder(**words, layers=["final", -1])
    layers = encoder(**read(encoder, TINY["points"].media())).layers
    own = hf.AutoModel.from_pretrained(tmp_path).get_submodule(norm) if norm else nn.Identity()
    torch.testing.assert_close(layers["final"], own(layers[-1]))
    assert not any("norm" in name for name, _ in PointsEncoder(**words).backbone.named_children())


def test_final_of_points_in_an_open_clip_image_tower(tmp_path: Path) -> None:
    vision = {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 2}
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 3}
    write_clip(str(tmp_path), vision, text)
    encoder = PointsEncoder(model=str(tmp_path), backbone="image", points=32, tokens=8, layers=["final", -1])
    layers = encoder(**read(encoder, TINY["points"].media())).layers
    weights = load_file(tmp_path / "open_clip_model.safetensors")
    expected = layer_norm(layers[-1], (16,), weights["visual.ln_post.weight"], weights["visual.ln_post.bias"])
    torch.testing.assert_close(layers["final"], expected)


def test_an_encoder_that_does_not_give_it_says_so() -> None:
    class Numbers(Encoder):
        """Knows numbers of layers alone."""

    with pytest.raises(MmllmError, match="final is not given by a Numbers as it was made; name layers by their numb"):
        Numbers(layers=["final"])
    with pytest.raises(MmllmError, match='layers: "last" is unknown; known: numbers of layers and final'):
        HfVisionEncoder(model="nowhere", layers=["last"])  # type: ignore[list-item]


def test_a_model_whose_output_is_narrower_than_its_blocks_is_refused(tmp_path: Path) -> None:
    document: Any = TINY["document"].make()
    config = hf.OPTConfig(
        vocab_size=32, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=8,
        do_layer_norm_before=False, max_position_embeddings=64,
    )  # fmt: skip
    hf.OPTModel(config).save_pretrained(tmp_path)
    document.processor.tokenizer.loaded.save_pretrained(tmp_path)
    encoder = DocumentEncoder(model=str(tmp_path), layers=["final"], max_tokens=16)
    with pytest.raises(MmllmError, match="final is 8 wide in this model, its blocks 16"):
        encoder(**read(encoder, ["tea 3"]))
