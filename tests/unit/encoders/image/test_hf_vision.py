"""``hf_vision``: transformers' own hidden states, prefix tokens by what the model declares, pictures kept whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.errors import MmllmError

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT = {
    **SMALL,
    "vocab_size": 40,
    "max_position_embeddings": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
KINDS: dict[str, tuple[str, dict[str, Any], int]] = {
    "clip_vision_model": ("CLIPVision", {}, 1),
    "siglip_vision_model": ("SiglipVision", {}, 0),
    "dinov2": ("Dinov2", {}, 1),
    "dinov2_with_registers": ("Dinov2WithRegisters", {"num_register_tokens": 4}, 5),
    "dinov3_vit": ("DINOv3ViT", {"num_register_tokens": 3}, 4),
    "dinov3_vit_bare": ("DINOv3ViT", {"num_register_tokens": 0}, 1),
    "vit": ("ViT", {}, 1),
    "deit": ("DeiT", {}, 2),
}


def processor(size: int = 28, **changes: Any) -> Any:
    options = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}, **changes}
    return transformers.CLIPImageProcessor(**options)


def folder(tmp: Path, prefix: str, changes: dict[str, Any], image_size: int = 28, patch: int = 7) -> tuple[Path, Any]:
    """A random model of one architecture with weights that matter, saved; (folder, the model itself)."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{prefix}Config")(**SMALL, image_size=image_size, patch_size=patch, **changes)
    model = getattr(transformers, f"{prefix}Model")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp)
    processor(image_size).save_pretrained(tmp)
    return tmp, model


def block_outputs(model: Any, pixels: torch.Tensor) -> list[torch.Tensor]:
    """What enters the first and leaves every block, seen by the test's own hooks on the only list of three modules."""
    (blocks,) = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3]
    seen: list[torch.Tensor] = []
    handles = [blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))]
    for block in blocks:
        handles.append(block.register_forward_hook(lambda _, __, out: seen.append(out)))
    with torch.no_grad():
        model(pixel_values=pixels)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_the_models_hidden_states_without_prefix_tokens(kind: str, tmp_path: Path) -> None:
    name, changes, prefix = KINDS[kind]
    path, model = folder(tmp_path, name, changes)
    encoder = HfVisionEncoder(model=str(path), layers=[0, 1, -2, -1])
    pixels = torch.randn(2, 3, 28, 28)
    expected = block_outputs(model, pixels)
    features = encoder(pixels=pixels)
    assert (encoder.dim, encoder.n_blocks, encoder.prefix, features.grid) == (16, 3, prefix, (4, 4))
    for layer, index in {0: 0, 1: 1, -2: 2, -1: 3}.items():
        assert expected[index].shape[1] == prefix + 16
        torch.testing.assert_close(features.layers[layer], expected[index][:, prefix:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_of_an_image_text_model_only_the_vision_tower_is_kept(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vision = {**SMALL, "image_size": 28, "patch_size": 7}
    config = getattr(transformers, f"{kind}Config")(vision_config=vision, text_config=TEXT)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    model.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    encoder = HfVisionEncoder(model=str(tmp_path), layers=[-1])
    pixels = torch.randn(1, 3, 28, 28)
    expected = block_outputs(model.vision_model, pixels)[-1][:, -16:]
    torch.testing.assert_close(encoder(pixels=pixels).layers[-1], expected, rtol=1e-5, atol=1e-5)
    kept = sum(p.numel() for p in encoder.parameters())
    assert kept == sum(p.numel() for p in model.vision_model.parameters())


def test_a_siglip_of_27_by_27_patches_gives_729_tokens(tmp_path: Path) -> None:
    path, _ = folder(tmp_path, "SiglipVision", {}, image_size=384, patch=14)
    encoder = HfVisionEncoder(model=str(path))
    inputs = encoder.processor.read(Image.new("RGB", (384, 384)))
    assert encoder.processor.grid(inputs) == (27, 27)
    assert encoder(**encoder.processor.collate([inputs])).layers[-2].shape == (1, 729, 16)


def test_square_pictures_get_exactly_the_processors_pixels(tmp_path: Path) -> None:
    path, _ = folder(tmp_path, "CLIPVision", {})
    picture = Image.radial_gradient("L").convert("RGB")
    expected = processor()(picture, return_tensors="pt")["pixel_values"][0]
    for fit in ("squash", "pad", "crop"):
        torch.testing.assert_close(
            HfVisionEncoder(model=str(path), fit=fit).processor.read(picture)["pixels"], expected
        )


def wide() -> Image.Image:
    """280 x 140, black, but the outer eighth on the left is white."""
    picture = Image.new("RGB", (280, 140), "black")
    picture.paste((255, 255, 255), (0, 0, 35, 140))
    return picture


def test_fit_decides_what_happens_to_a_wide_picture(tmp_path: Path) -> None:
    path, _ = folder(tmp_path, "CLIPVision", {})
    red = {
        fit: HfVisionEncoder(model=str(path), fit=fit).processor.read(wide())["pixels"][0]
        for fit in ("squash", "pad", "crop")
    }
    assert torch.equal(red["crop"], processor()(wide(), return_tensors="pt")["pixel_values"][0, 0])
    black = red["crop"].min()
    assert (red["crop"] == black).all()  # the crop lost the white part
    assert (red["squash"][:, :3] > 1).all() and (red["squash"][:, 6:] == black).all()
    assert red["pad"][0].abs().max() < 0.01  # the border is the mean colour: zero after normalisation
    assert red["pad"][14, 0] > 1 and red["pad"][14, 27] == black


def test_a_processor_that_squashes_can_still_pad_and_crop(tmp_path: Path) -> None:
    folder(tmp_path, "SiglipVision", {})
    transformers.SiglipImageProcessor(size={"height": 28, "width": 28}).save_pretrained(tmp_path)
    pixels = {
        f: HfVisionEncoder(model=str(tmp_path), fit=f).processor.read(wide())["pixels"]
        for f in ("squash", "pad", "crop")
    }
    assert pixels["squash"][0, 14, 0] == 1 and pixels["squash"][0, 14, 27] == -1
    assert pixels["pad"][0, 0].abs().max() < 0.01 and pixels["pad"][0, 14, 0] == 1
    assert (pixels["crop"] == -1).all()


@pytest.mark.parametrize("kind", ["CLIPVision", "SiglipVision", "Dinov2", "DINOv3ViT", "ViT"])
def test_image_size_changes_the_grid(kind: str, tmp_path: Path) -> None:
    path, _ = folder(tmp_path, kind, {})
    encoder = HfVisionEncoder(model=str(path), image_size=42)
    inputs = encoder.processor.read(Image.new("RGB", (50, 30)))
    assert encoder.processor.grid(inputs) == (6, 6) and encoder.processor.blank()["pixels"].shape == (3, 42, 42)
    assert encoder(**encoder.processor.collate([inputs])).layers[-2].shape == (1, 36, 16)


def test_boxes_stay_valid_under_squash(tmp_path: Path) -> None:
    path, _ = folder(tmp_path, "CLIPVision", {})
    picture = Image.new("RGB", (400, 100), "black")
    picture.paste((255, 255, 255), (300, 50, 400, 100))  # box 0.75, 0.5, 1.0, 1.0
    pixels = HfVisionEncoder(model=str(path)).processor.read(picture)["pixels"][0]
    rows, cols = (pixels > 0).nonzero(as_tuple=True)
    assert (int(rows.min()), int(cols.min()), int(rows.max()), int(cols.max())) == (14, 21, 27, 27)


def test_a_backbone_saved_with_a_classifier_has_no_random_pooler(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = transformers.ViTConfig(**SMALL, image_size=28, patch_size=7)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    capfd.readouterr()
    first, second = (HfVisionEncoder(model=str(tmp_path)).state_dict() for _ in range(2))
    assert capfd.readouterr() == ("", "")  # transformers would report the pooler as missing
    assert first.keys() == second.keys() and not any("pooler" in name for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_that_do_not_fill_the_model_are_an_error(tmp_path: Path) -> None:
    path, _ = folder(tmp_path, "CLIPVision", {})
    weights = load_file(path / "model.safetensors")
    lost = next(name for name in weights if name.endswith("layers.1.mlp.fc1.weight"))
    save_file({k: v for k, v in weights.items() if k != lost}, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MmllmError, match=r"do not fill the model: .*layers\.1\.mlp\.fc1\.weight"):
        HfVisionEncoder(model=str(path))
    save_file({**weights, lost: weights[lost][:-1].clone()}, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MmllmError, match=r"layers\.1\.mlp\.fc1\.weight \(\[.*\] in the file, \[.*\] by config.json\)"):
        HfVisionEncoder(model=str(path))


def test_folders_that_are_no_vision_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(MmllmError, match="cannot be loaded as a vision model"):
        HfVisionEncoder(model=str(tmp_path))
    config = transformers.LlamaConfig(**SMALL, vocab_size=40)
    transformers.LlamaModel(config).save_pretrained(tmp_path)
    with pytest.raises(MmllmError, match="LlamaModel does not take plain pictures"):
        HfVisionEncoder(model=str(tmp_path))


def test_models_that_take_patches_of_varying_shapes_are_refused(tmp_path: Path) -> None:
    config = transformers.Siglip2VisionConfig(**SMALL, patch_size=7, num_patches=16)
    transformers.Siglip2VisionModel(config).save_pretrained(tmp_path)
    with pytest.raises(MmllmError, match="Siglip2VisionModel does not take plain pictures; use a ViT of fixed size"):
        HfVisionEncoder(model=str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fit": "squish"}, 'fit: "squish" is unknown; known: squash, pad, crop'),
        ({"layers": []}, "must name at least one hidden layer"),
        ({"layers": [1, 1]}, "none of them twice"),
        ({"layers": [9]}, "layers: 9 does not exist: this encoder has 3 blocks"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    path, _ = folder(tmp_path, "CLIPVision", {})
    with pytest.raises(MmllmError, match=sentence):
        HfVisionEncoder(model=str(path), **changes)
