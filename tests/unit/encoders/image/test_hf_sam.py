"""Segment Anything's image encoder: states as transformers gives them, alone and inside a DeepSeek-VL; what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file

from mmllm.encoders.image.sam.hf_sam import HfSamEncoder
from mmllm.encoders.outlines.outline import outline
from mmllm.errors import MmllmError
from mmllm.processors.settings import settings
from mmllm.published.media.pictures import picture
from mmllm.testing.tiny.published import published_folder

VISION: dict[str, Any] = {
    "hidden_size": 16, "output_channels": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 48,
    "patch_size": 8, "mlp_dim": 32, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole SAM, prompts and masks included."""
    folder = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    prompts = {"hidden_size": 8, "image_embedding_size": 6, "image_size": 48, "patch_size": 8, "mask_input_channels": 4}
    masks = {"hidden_size": 8, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 8}
    config = t.SamConfig(vision_config=VISION, prompt_encoder_config=prompts, mask_decoder_config=masks)
    model = t.SamModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    t.SamImageProcessor(size={"longest_edge": 48}, pad_size={"height": 48, "width": 48}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepSeek-VL whose inner state weighs as much as the output."""
    folder = published_folder("DeepseekVLHybrid", tmp_path_factory.mktemp("hybrid") / "vlm")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.high_res_vision_alpha"].fill_(1.5)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@torch.no_grad()
def test_states_are_transformers_own(sam: Path) -> None:
    images = [picture(90, 60), picture(30, 50)]
    pixels = t.SamImageProcessor.from_pretrained(sam)(images, return_tensors="pt")["pixel_values"]
    theirs = t.SamModel.from_pretrained(sam).eval().vision_encoder(pixels, output_hidden_states=True)
    final = HfSamEncoder(model=str(sam))
    items = final.processor.collate([final.processor.read(image) for image in images])
    assert torch.equal(items["pixels"], pixels)
    expected = theirs.last_hidden_state.flatten(2).transpose(1, 2)
    features = final(**items)
    torch.testing.assert_close(features.layers["final"], expected)
    assert final.dim == 8 and features.grid == (6, 6)
    inner = HfSamEncoder(model=str(sam), layers=[0, 2, -1])
    found = inner(**items).layers
    assert inner.dim == 16
    for layer in (0, 2, -1):
        torch.testing.assert_close(found[layer], theirs.hidden_states[layer].flatten(1, 2))


@torch.no_grad()
def test_blocks_behind_the_deepest_layer_do_not_run(sam: Path) -> None:
    encoder = HfSamEncoder(model=str(sam), layers=[1])
    item = encoder.processor.collate([encoder.processor.read(picture(90, 60))])
    seen: list[int] = []
    for number, block in enumerate(encoder.blocks):
        block.register_forward_hook(lambda *_, number=number: seen.append(number))
    for layers, ran in (((1,), [0]), ((0, 2), [0, 1]), (("final",), [0, 1, 2])):
        seen.clear()
        encoder.layers = layers
        encoder(**item)
        assert seen == ran and len(encoder.blocks) == 3


@torch.no_grad()
def test_final_is_what_a_model_with_two_towers_makes_of_it(hybrid: Path) -> None:
    encoder = HfSamEncoder(model=str(hybrid))
    item = encoder.processor.collate([encoder.processor.read(picture(90, 60))])
    whole = t.DeepseekVLHybridForConditionalGeneration.from_pretrained(hybrid).eval().model
    expected = whole.get_high_res_image_features(item["pixels"]).last_hidden_state
    found = encoder(**item)
    torch.testing.assert_close(found.layers["final"], expected)
    assert found.grid == (4, 4) and encoder.dim == 32
    assert encoder.high is not None
    encoder.high.layer += 1
    assert not torch.allclose(encoder(**item).layers["final"], expected, atol=1e-3)


def test_its_outline_is_the_encoder(sam: Path, hybrid: Path) -> None:
    for folder in (sam, hybrid):
        for layers in (["final"], [-1, 1]):
            words = {"model": str(folder), "layers": layers}
            found, encoder = outline("hf_sam", words), HfSamEncoder(**words)  # type: ignore[arg-type]
            assert found is not None and (found.dim, found.n_layers) == (encoder.dim, len(layers))
            assert settings(found.processor) == settings(encoder.processor)
            assert found.processor.fixed_grid() == encoder.processor.fixed_grid()


def test_what_is_refused(sam: Path, hybrid: Path, tmp_path: Path) -> None:
    with pytest.raises(MmllmError, match="cannot stand side by side: final is of another size in this model"):
        HfSamEncoder(model=str(sam), layers=["final", 1])
    with pytest.raises(MmllmError, match="layers: 4 does not exist: this encoder has 3 blocks"):
        HfSamEncoder(model=str(sam), layers=[4])
    t.CLIPConfig().save_pretrained(tmp_path / "clip")
    with pytest.raises(MmllmError, match="is a clip, which has no image encoder of Segment Anything; give a SAM"):
        HfSamEncoder(model=str(tmp_path / "clip"))
    tensors = load_file(hybrid / "model.safetensors")
    kept = {name: one for name, one in tensors.items() if "neck.conv2" not in name or "high_res_vision_model" in name}
    assert len(kept) == len(tensors) - 1
    (tmp_path / "less").mkdir()
    for file in hybrid.glob("*.json"):
        (tmp_path / "less" / file.name).write_bytes(file.read_bytes())
    save_file(kept, tmp_path / "less" / "model.safetensors", {"format": "pt"})
    with pytest.raises(MmllmError, match=r"lacks weights of its high_res_vision_neck.conv2.weight"):
        HfSamEncoder(model=str(tmp_path / "less"))
