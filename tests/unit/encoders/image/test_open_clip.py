"""``open_clip``: equal to transformers' CLIP with the same weights, visual tower only, QuickGELU where it belongs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

from mmllm.encoders.image.open_clip import OpenClipEncoder
from mmllm.encoders.image.open_clip_weights import needs_quick_gelu
from mmllm.errors import MmllmError
from tests.support.stand_ins import open_clip_folder


def as_transformers(visual: Any, activation: str) -> CLIPVisionModel:
    """transformers' CLIP tower with the weights of open_clip's (queries, keys and values apart)."""
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
        image_size=28, patch_size=7, hidden_act=activation, projection_dim=16,
    )  # fmt: skip
    model = CLIPVisionModel(config).eval()
    copied = {
        "embeddings.class_embedding": visual.class_embedding,
        "embeddings.patch_embedding.weight": visual.conv1.weight,
        "embeddings.position_embedding.weight": visual.positional_embedding,
    }
    norms = [(visual.ln_pre, "pre_layrnorm"), (visual.ln_post, "post_layernorm")]
    for i, block in enumerate(visual.transformer.resblocks):
        here = f"encoder.layers.{i}"
        norms += [(block.ln_1, f"{here}.layer_norm1"), (block.ln_2, f"{here}.layer_norm2")]
        norms += [(block.attn.out_proj, f"{here}.self_attn.out_proj")]
        norms += [(block.mlp.c_fc, f"{here}.mlp.fc1"), (block.mlp.c_proj, f"{here}.mlp.fc2")]
        for kind in ("weight", "bias"):
            parts = getattr(block.attn, f"in_proj_{kind}").chunk(3)
            copied |= {f"{here}.self_attn.{n}_proj.{kind}": part for n, part in zip("qkv", parts, strict=True)}
    for module, name in norms:
        copied |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    model.load_state_dict(copied)
    return model


@pytest.mark.parametrize(("quick", "activation"), [(False, "gelu"), (True, "quick_gelu")])
def test_every_layer_equals_transformers_clip(quick: bool, activation: str, tmp_path: Path) -> None:
    original = open_clip_folder(tmp_path, quick_gelu=quick)
    encoder = OpenClipEncoder(model=str(tmp_path), layers=[0, 1, 2, 3, 4, -1, -2])
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        states = as_transformers(original.visual, activation)(pixels, output_hidden_states=True).hidden_states
    features = encoder(pixels=pixels)
    assert features.grid == (4, 4) and encoder.dim == 32
    for layer, values in features.layers.items():
        torch.testing.assert_close(values, states[layer][:, 1:], rtol=1e-5, atol=1e-5)


def test_a_timm_tower_gives_the_same_kind_of_layers(tmp_path: Path) -> None:
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "avg", "timm_proj": "linear", "image_size": 224}
    original = open_clip_folder(tmp_path, vision, custom_text=True)
    encoder = OpenClipEncoder(model=str(tmp_path), layers=[0, 3, -1])
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    features = encoder(pixels=pixels)
    trunk = original.visual.trunk
    assert (features.grid, encoder.prefix, encoder.dim) == ((14, 14), trunk.num_prefix_tokens, trunk.embed_dim)
    with torch.no_grad():
        _, blocks = trunk.forward_intermediates(pixels, indices=[2, 11], output_fmt="NLC")
        first = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(pixels))))[:, 1:]
    for layer, expected in zip((0, 3, -1), (first, *blocks), strict=True):
        torch.testing.assert_close(features.layers[layer], expected, rtol=1e-5, atol=1e-5)


def test_only_the_visual_tower_is_kept(tmp_path: Path) -> None:
    original = open_clip_folder(tmp_path)
    encoder = OpenClipEncoder(model=str(tmp_path))
    saved = {f"visual.{name}": value for name, value in original.visual.state_dict().items()}
    found = encoder.state_dict()
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[name], saved[name]) for name in saved)


def test_pixels_are_prepared_as_the_folder_says(tmp_path: Path) -> None:
    open_clip_folder(
        tmp_path, preprocess={"mean": [0.5, 0.25, 0.0], "std": [0.5, 0.25, 1.0], "interpolation": "bilinear"}
    )
    pixels = OpenClipEncoder(model=str(tmp_path)).processor.read(Image.new("RGB", (28, 28), (255, 0, 51)))["pixels"]
    expected = torch.tensor([1.0, -1.0, 0.2])[:, None, None].expand(3, 28, 28)
    torch.testing.assert_close(pixels, expected)


def test_fit_decides_what_happens_to_a_wide_picture(tmp_path: Path) -> None:
    open_clip_folder(tmp_path, preprocess={"mean": [0.5] * 3, "std": [0.5] * 3})
    picture = Image.new("RGB", (280, 140), (128, 128, 128))
    picture.paste((255, 255, 255), (0, 0, 35, 140))
    red = {
        fit: OpenClipEncoder(model=str(tmp_path), fit=fit).processor.read(picture)["pixels"][0]
        for fit in ("squash", "pad", "crop")
    }
    assert red["squash"][14, 0] == 1 and red["squash"][14, 27].abs() < 0.01
    assert red["pad"][0, 14] == -1 and red["pad"][14, 0] == 1
    assert red["crop"].abs().max() < 0.01  # the white part is outside the crop


def test_a_path_that_needs_no_pad_is_the_librarys_own_transform(tmp_path: Path) -> None:
    open_clip_folder(tmp_path)
    picture = Image.radial_gradient("L").convert("RGB")
    _, transform = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    for fit in ("squash", "pad", "crop"):
        assert torch.equal(
            OpenClipEncoder(model=str(tmp_path), fit=fit).processor.read(picture)["pixels"], transform(picture)
        )


def test_quick_gelu_follows_the_weights_not_the_model_name() -> None:
    assert needs_quick_gelu("ViT-L-14-336", "openai") is True
    assert needs_quick_gelu("ViT-B-32", "laion2b_s34b_b79k") is False
    assert needs_quick_gelu("ViT-B-32-quickgelu", "openai") is True


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"model": "ViT-L-14-366", "pretrained": "openai"}, 'did you mean "ViT-L-14-336"'),
        ({"model": "ViT-L-14", "pretrained": "opanai"}, 'no pretrained "opanai"; known: openai'),
        ({"model": "ViT-L-14"}, 'no pretrained "None"; known: openai'),
        ({"model": "no/such/folder"}, "neither a folder nor a model name"),
        ({"model": "{folder}", "pretrained": "openai"}, "has no meaning beside the folder"),
        ({"model": "{folder}", "layers": [5]}, "layers: 5 does not exist: this encoder has 4 blocks"),
        ({"model": "{empty}"}, "has no open_clip_config.json"),
    ],
)
def test_what_cannot_be_loaded_is_named(arguments: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    open_clip_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    arguments["model"] = arguments["model"].format(folder=tmp_path, empty=tmp_path / "empty")
    with pytest.raises(MmllmError, match=sentence):
        OpenClipEncoder(**arguments)


def test_damaged_weights_and_towers_without_patches_are_errors(tmp_path: Path) -> None:
    open_clip_folder(tmp_path)
    weights = (tmp_path / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "open_clip_model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(MmllmError, match="open_clip cannot load"):
        OpenClipEncoder(model=str(tmp_path))
    open_clip_folder(tmp_path, {"layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "image_size": 32})
    with pytest.raises(MmllmError, match="ModifiedResNet tower without transformer blocks"):
        OpenClipEncoder(model=str(tmp_path))
