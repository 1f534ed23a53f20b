"""Casting a frozen part leaves in float32 what the model itself keeps in it: its error is that of transformers' own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from mmllm.encoders.document import DocumentEncoder
from mmllm.encoders.float32_buffers import float32_buffers
from mmllm.encoders.graph.text_graph import TextGraphEncoder
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.encoders.image.open_clip import OpenClipEncoder
from mmllm.testing.tiny.encoders import TINY
from tests.support.assemblies import tiny_assembly
from tests.support.stand_ins import open_clip_folder
from tests.unit.encoders.image.test_hf_vision import folder as vision_folder

LENGTH = 4096
CASTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "to": lambda module: module.to(torch.bfloat16),
    "to a device too": lambda module: module.to("cpu", torch.bfloat16),
    "bfloat16": lambda module: module.bfloat16(),
    "half": lambda module: module.half(),
    "inside another": lambda module: nn.ModuleList([module]).bfloat16()[0],
}
ROTARY = {
    "llama": (hf.LlamaConfig, hf.LlamaModel),
    "modernbert": (hf.ModernBertConfig, hf.ModernBertModel),
}


def text_folder(kind: str, tmp: Path) -> Path:
    """A random rotary model for long texts."""
    config, model = ROTARY[kind]
    torch.manual_seed(0)
    made = model(
        config(
            vocab_size=32, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=LENGTH, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    with torch.no_grad():  # attention that looks somewhere, or no angle would matter
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    made.save_pretrained(tmp)
    document: Any = TINY["document"].make()
    document.processor.tokenizer.loaded.save_pretrained(tmp)
    return tmp


def floating(module: nn.Module) -> dict[str, torch.dtype]:
    return {name: value.dtype for name, value in module.named_buffers() if value.is_floating_point()}


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.float() - exact).norm() / exact.norm())


@pytest.mark.parametrize("kind", ROTARY)
@torch.no_grad()
def test_a_long_document_in_16_bits_is_as_exact_as_transformers_own(kind: str, tmp_path: Path) -> None:
    encoder = DocumentEncoder(model=str(text_folder(kind, tmp_path)), layers=["final"], max_tokens=LENGTH)
    ids = torch.randint(3, 32, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    given = {"ids": ids, "lengths": torch.tensor([LENGTH])}
    exact = encoder(**given).layers["final"]
    own = hf.AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    expected = own(input_ids=ids).last_hidden_state
    found = encoder.to(torch.bfloat16)(**given).layers["final"]
    assert floating(encoder.model) == floating(own)
    assert torch.equal(found, expected)
    rounded = encoder.model
    for name, buffer in list(rounded.named_buffers()):
        path, _, last = name.rpartition(".")
        setattr(rounded.get_submodule(path), last, buffer.bfloat16())
    # what it is kept for: rounded frequencies cost more than all that 16 bits cost otherwise
    assert error(encoder(**given).layers["final"], exact) > 1.5 * error(found, exact)


@pytest.mark.parametrize("cast", CASTS)
def test_every_way_to_cast_keeps_them(cast: str, tmp_path: Path) -> None:
    encoder = TextGraphEncoder(model=str(text_folder("llama", tmp_path)))
    assert encoder.text is not None
    before = dict(encoder.text.model.named_buffers())
    assert len(before) >= 1
    values = {name: value.clone() for name, value in before.items()}
    CASTS[cast](encoder)
    assert {value.dtype for value in encoder.parameters()} <= {torch.bfloat16, torch.float16}
    for name, value in encoder.text.model.named_buffers():
        assert value.dtype == torch.float32 and torch.equal(value, values[name])


def test_casting_up_and_back_is_what_was_asked_for(tmp_path: Path) -> None:
    encoder = DocumentEncoder(model=str(text_folder("llama", tmp_path)))
    assert set(floating(encoder.double().model).values()) == {torch.float64}
    assert set(floating(encoder.float().model).values()) == {torch.float32}


@pytest.mark.parametrize("kind", ["DINOv3ViT", "CLIPVision", "SiglipVision", "Dinov2"])
@torch.no_grad()
def test_vision_models_in_16_bits_are_transformers_own(kind: str, tmp_path: Path) -> None:
    path, _ = vision_folder(tmp_path, kind, {})
    encoder = HfVisionEncoder(model=str(path), layers=["final"]).to(torch.bfloat16)
    own = hf.AutoModel.from_pretrained(path, dtype=torch.bfloat16)
    pixels = torch.randn(1, 3, 28, 28).bfloat16()
    expected = own(pixel_values=pixels).last_hidden_state
    expected = own.post_layernorm(expected) if kind == "CLIPVision" else expected
    assert floating(encoder.vision) == floating(own)
    assert torch.equal(encoder(pixels=pixels).layers["final"], expected[:, encoder.prefix :])


@torch.no_grad()
def test_a_tower_of_timm_is_cast_as_timm_casts_it(tmp_path: Path) -> None:
    """Its computed biases must follow the weights, or it would not run."""
    name = "eva02_tiny_patch14_224"
    vision = {"timm_model_name": name, "timm_pool": "token", "timm_proj": "linear", "image_size": 224}
    original = open_clip_folder(tmp_path, vision, custom_text=True)
    encoder = OpenClipEncoder(model=str(tmp_path), layers=["final"]).bfloat16()
    pixels = torch.randn(1, 3, 224, 224).bfloat16()
    trunk = original.visual.trunk.bfloat16()
    own = floating(trunk)
    assert floating(encoder.visual.trunk) == own
    assert {own[name] for name in own if name.endswith("k_bias")} == {torch.bfloat16}
    expected = trunk.forward_features(pixels)[:, trunk.num_prefix_tokens :]
    assert torch.equal(encoder(pixels=pixels).layers["final"], expected)


@pytest.mark.parametrize("cast", [lambda model: model.to(torch.bfloat16), lambda model: model.bfloat16()])
def test_a_whole_model_keeps_those_of_its_llm_and_its_encoders(
    cast: Callable[[nn.Module], nn.Module],
) -> None:
    model = tiny_assembly()
    buffers = {name: value.clone() for name, value in model.llm.named_buffers() if "inv_freq" in name}
    cast(model)
    assert buffers and {value.dtype for value in model.parameters()} == {torch.bfloat16}
    for name, value in model.llm.named_buffers():
        if name in buffers:
            assert value.dtype == torch.float32 and torch.equal(value, buffers[name])


def test_other_computed_buffers_follow_the_weights_as_transformers_has_them() -> None:
    """Sinusoidal positions are added to the stream, so transformers makes them in the weights' dtype."""
    config = hf.Speech2TextConfig(
        vocab_size=8, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
    )  # fmt: skip
    model = hf.Speech2TextModel(config)
    before = floating(model)
    assert before and set(before.values()) == {torch.float32}
    with float32_buffers(model):
        model.bfloat16()
    assert set(floating(model).values()) == {torch.bfloat16}
