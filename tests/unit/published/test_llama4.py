"""Llama 4 as a run: how a picture is laid on tiles by its size alone, its LLM in long packed rows, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers as t
from PIL import Image
from transformers.image_utils import SizeDict
from transformers.models.llama4.image_processing_llama4 import find_supported_resolutions, get_best_fit

import mmllm
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.encoders.image.tiles import TilesEncoder
from mmllm.errors import MmllmError
from mmllm.llms.causal_lm import CausalLM
from mmllm.processors.tile_rules import canvas, kept_shape
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import picture
from mmllm.testing.tiny.published import published_folder
from mmllm.testing.tiny.published.llama4 import TEXT
from tests.support.forward import decoded, text_context, text_hidden
from tests.support.parts import tiny_tokenizer

SIDES = (1, 20, 28, 29, 56, 100, 111, 224, 333, 336, 337, 500, 672, 1000, 1344, 2016, 5000)


def test_the_canvas_is_that_of_its_image_processor() -> None:
    for tile, most in ((336, 16), (28, 4), (28, 12)):
        find_supported_resolutions.cache_clear()
        known = torch.tensor(find_supported_resolutions(most, SizeDict(height=tile, width=tile)))
        for width in SIDES:
            for height in SIDES:
                expected = get_best_fit((height, width), known)
                found = canvas(width, height, tile, most)
                assert [found.rows * tile, found.cols * tile] == expected.tolist(), (width, height, tile, most)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama4")
    published_folder("Llama4", folder / "vlm")
    import_checkpoint(str(folder / "vlm"), folder / "run")
    return folder


@pytest.mark.parametrize("size", [(20, 20), (56, 28), (28, 60), (333, 250), (1, 90), (40, 33), (300, 20)])
def test_tokens_are_counted_before_a_picture_is_read(size: tuple[int, int], place: Path) -> None:
    entry = mmllm.load(place / "run").model.inputs["image"]
    processor = t.AutoProcessor.from_pretrained(place / "vlm")
    ids = processor(text=["<|image|>"], images=[picture(*size)], return_tensors="pt")["input_ids"][0]
    item = entry.measure(picture(*size))
    assert sum(span.length for span in entry.layout(item)) == int(
        (ids == processor.tokenizer.convert_tokens_to_ids("<|patch|>")).sum()
    )
    assert item["image"]["cut"].tolist() == entry.read(picture(*size))["image"]["cut"].tolist()


@pytest.mark.parametrize("size", [(56, 28), (333, 250), (40, 33), (300, 20)])
def test_without_the_folders_processor_a_picture_lies_where_it_lies_there(size: tuple[int, int], place: Path) -> None:
    """Black borders at the right and bottom, of the same width; pixels by Pillow's bicubic instead of its bilinear."""
    image = {"type": "hf_vision", "model": str(place / "vlm"), "layers": ["final"]}
    ours = TilesEncoder(image={**image, "fit": "squash"}, rule="canvas", most=4).processor
    theirs = TilesEncoder(image={**image, "fit": "own"}, rule="canvas", most=4).processor
    white = Image.new("RGB", size, "white")
    one, other = (processor.read(white)["pixels"] for processor in (ours, theirs))
    assert one.shape == other.shape and torch.equal(one > 0, other > 0)
    tiling = ours.tiling_of(*size)
    wide, high = kept_shape(*size, tiling, 28)
    assert int((other[: tiling.rows * tiling.cols, 0] > 0).sum()) == wide * high


def llm(**words: Any) -> tuple[CausalLM, Any]:
    """The wrapper, and transformers' own model."""
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        model = t.Llama4ForCausalLM(t.Llama4TextConfig(**{**TEXT, **words})).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.base_model_prefix = "model"
        made.append(model)
    return CausalLM(made[0], tiny_tokenizer(), 64), made[1]


@torch.no_grad()
def test_temperature_counts_in_each_conversation() -> None:
    """Each of a packed row, and of a left-padded one, has the states that transformers gives it alone."""
    made, model = llm(floor_scale=4, attention_chunk_size=64)
    lengths = (30, 5, 21)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 380, (n,), generator=generator) for n in lengths]
    expected = torch.cat([model.model(input_ids=row[None]).last_hidden_state[0] for row in rows])
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    positions = torch.cat([torch.arange(n) for n in lengths])
    found = text_hidden(made, torch.cat(rows), positions, bounds)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    ctx = text_context(torch.cat(rows), positions, bounds)
    chosen = torch.tensor([2, 29, 34, 55])
    assert made.prunes and made.goes_on
    some = made(made.embed(torch.cat(rows), ctx), replace(ctx, wanted=chosen))
    torch.testing.assert_close(some, expected[chosen], atol=1e-4, rtol=1e-4)
    ids = torch.stack([torch.nn.functional.pad(row, (30 - len(row), 0)) for row in rows])
    mask = torch.stack([torch.arange(30) >= 30 - len(row) for row in rows])
    cache = made.new_cache()
    for start, end in ((0, 28), (28, 29), (29, 30)):
        logits = decoded(made, ids[:, start:end], mask[:, :end], (mask.cumsum(-1) - 1)[:, start:end], cache)
    last = torch.stack([model(input_ids=row[None]).logits[0, -1] for row in rows])
    torch.testing.assert_close(logits, last, atol=1e-4, rtol=1e-4)
    # the check that would fail if positions were those of the row
    whole = model.model(input_ids=torch.cat(rows)[None]).last_hidden_state[0]
    assert (whole[:30] - expected[:30]).abs().max() < 1e-4 < (whole[35:] - expected[35:]).abs().max()


def test_a_conversation_fits_a_chunk() -> None:
    with pytest.raises(
        MmllmError, match=r"llm\.context: 64 tokens, but llama4_text here attends in chunks of 16, whose"
    ):
        llm(attention_chunk_size=16)
    model = t.Llama4ForCausalLM(t.Llama4TextConfig(**{**TEXT, "attention_chunk_size": 16}))
    model.base_model_prefix = "model"
    assert CausalLM(model, tiny_tokenizer()).context == 16


def test_nothing_is_added_to_what_chooses_experts() -> None:
    made, _ = llm()
    assert any(name.endswith("router") for name, _ in made.model.named_modules())
    assert not any(name.endswith("router") for name in made.linears())
    assert made.keys_values is not None and all("router" not in name for name in made.block_linears(1)["mlp"])


def test_the_tower_keeps_its_rotation_in_half_precision(place: Path) -> None:
    """Its complex numbers would lose half of themselves in a cast; and no connector is put among its tokens."""
    encoder = HfVisionEncoder(model=str(place / "vlm"), layers=[1, "final"], fit="own")
    pixels = torch.from_numpy(numpy.random.default_rng(0).normal(size=(2, 3, 28, 28))).float()
    before = encoder(pixels=pixels).layers
    assert {layer.shape for layer in before.values()} == {(2, 16, 16)}
    half = encoder.to(torch.bfloat16)
    assert half.vision.rotary_embedding.freqs_ci.dtype == torch.complex64
    after = half(pixels=pixels).layers
    for layer, states in before.items():
        assert (after[layer].float() - states).abs().max() < 0.05 * states.abs().max()
    with pytest.raises(MmllmError, match="has its class token behind the patches, where no connector"):
        encoder.hook_points()


@pytest.mark.parametrize(
    ("file", "words", "sentence"),
    [
        ("processor_config.json", {"resize_to_max_canvas": True}, "enlarges pictures as far as tiles go"),
        ("processor_config.json", {"patch_size": 14}, "has patches of 7 pixels, 4 of them a token, .* counts 14"),
        ("config.json", {"projector_output_dim": 48}, r"vision_output_dim: \[24, 48, 24\] must be the same"),
        ("config.json", {"intermediate_size": 32}, "intermediate_size: 32 that of a block of 2 x 2 patches"),
    ],
)
def test_what_cannot_be_imported(file: str, words: dict[str, Any], sentence: str, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "vlm", tmp_path / "vlm")
    path = tmp_path / "vlm" / file
    found = json.loads(path.read_text())
    inner = found["vision_config"] if file == "config.json" else found["image_processor"]
    (found if "patch_size" in words else inner).update(words)
    path.write_text(json.dumps(found))
    with pytest.raises(MmllmError, match=sentence):
        import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
