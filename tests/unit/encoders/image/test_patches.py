"""Pixels as features: sizes and grids by arithmetic, values by transformers' own image processors, inverses, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as t
from PIL import Image
from transformers.models.gemma4_unified.image_processing_gemma4_unified import Gemma4UnifiedImageProcessor

from mmllm.encoders.image.patches import PatchesEncoder
from mmllm.encoders.outlines.outline import outline
from mmllm.errors import MediaError, MmllmError
from mmllm.inspection.pictures import denormalised
from mmllm.published.media.pictures import picture

SIZES = ((333, 250), (31, 200), (30, 30), (1, 1), (61, 59), (400, 20))
GEMMA: dict[str, Any] = {
    "patch": 48, "longest": None, "least": 70, "most": 70, "edge": "stretch", "resample": "bicubic", "mean": [0],
    "std": [1],
}  # fmt: skip


def fuyu(image: Image.Image, height: int, width: int) -> torch.Tensor:
    """Patches as Fuyu's processor cuts them."""
    own = t.FuyuImageProcessor(size={"height": height, "width": width})
    found = own([image], return_tensors="pt")
    rows, cols = (-(-int(found[f"image_unpadded_{side}"][0][0]) // 30) for side in ("heights", "widths"))
    return own.patchify_image(found["images"][0][..., : 30 * rows, : 30 * cols])[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("canvas", [(1080, 1920), (120, 150)])
def test_fuyus_patches(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    """A canvas of 120 x 150 shrinks most of them."""
    encoder, image = PatchesEncoder(longest=canvas), picture(*size)
    item = encoder.processor.read(image)
    theirs = fuyu(image, *canvas)
    assert item["patches"].shape == theirs.shape
    assert torch.allclose(item["patches"], theirs, atol=1e-6)
    assert torch.equal(encoder.processor.measure(image)["grid"], item["grid"])


@pytest.mark.parametrize("size", [*SIZES, (3000, 40), (40, 3000)])
def test_gemma_4s_patches(size: tuple[int, int]) -> None:
    """Blocks of 3 x 3 patches of 16 pixels, as large as 70 of them allow."""
    encoder, image = PatchesEncoder(**GEMMA), picture(*size)
    item = encoder.processor.read(image)
    found = Gemma4UnifiedImageProcessor(max_soft_tokens=70)([image], return_tensors="pt")
    rows, cols = item["grid"].tolist()
    places = found["image_position_ids"][0]
    real = places[(places >= 0).all(dim=-1)]
    assert real.max(dim=0).values.tolist() == [cols - 1, rows - 1] and len(real) == rows * cols
    assert torch.allclose(item["patches"], found["pixel_values"][0][: rows * cols], atol=1e-6)


@pytest.mark.parametrize("words", [{}, {"order": "channel_row_col", "mean": [0.4, 0.5, 0.6]}, GEMMA])
def test_patches_are_the_picture(words: dict[str, Any]) -> None:
    encoder, image = PatchesEncoder(**words), picture(90, 60)
    item = encoder.processor.read(image)
    pixels = encoder.processor.patching.pixels(item["patches"], encoder.processor.grid(item))
    shown = denormalised(encoder.processor, pixels)
    if not words or "order" in words:  # kept at its size
        assert shown.tobytes() == image.tobytes()
    features = encoder(**encoder.processor.collate([item, encoder.processor.read(picture(200, 40))]))
    assert torch.equal(features.layers[0][0][features.mask[0]], item["patches"])


def test_least_and_most_are_areas_in_patches() -> None:
    grown = PatchesEncoder(patch=10, longest=None, least=24, most=54)
    assert grown.processor.grid(grown.processor.measure(picture(20, 30))) == (6, 4)
    assert grown.processor.grid(grown.processor.measure(picture(60, 50))) == (5, 6)
    assert grown.processor.grid(grown.processor.measure(picture(900, 600))) == (6, 9)
    narrow = PatchesEncoder(longest=(60, 60))
    with pytest.raises(MediaError, match="so narrow that resizing leaves no patch"):
        narrow.processor.read(Image.new("RGB", (2, 400)))


def test_its_outline_is_the_encoder() -> None:
    for words in ({}, {"patch": 8, "longest": 64}, GEMMA):
        found, encoder = outline("patches", words), PatchesEncoder(**words)
        assert found is not None and found.dim == encoder.dim
        assert found.processor.patching == encoder.processor.patching  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"patch": 0}, "patch: 0 must be at least 1"),
        ({"longest": [1, 2, 3]}, "must be one number, or a height and a width"),
        ({"least": 9, "most": 3}, "least: 9 patches are more than most: 3"),
        ({"order": "xyz"}, 'order: "xyz" is unknown; known: row_col_channel, channel_row_col'),
        ({"edge": "cut"}, 'edge: "cut" is unknown; known: pad, stretch'),
        ({"std": [0.0]}, "std: .* must be one number or three"),
        ({"mean": [0.1, 0.2]}, "mean: .* must be one number or three"),
        ({"fill": 300}, "fill: 300.0 must be a grey from 0 to 255"),
    ],
)
def test_wrong_words(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        PatchesEncoder(**words)
