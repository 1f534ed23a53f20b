"""The canvas of tiles equals transformers' own choice for every size; pixels, number and tiles are its processor's."""

from __future__ import annotations

from random import Random

import pytest
import torch
import transformers as t
from PIL import Image
from transformers.models.mllama.image_processing_mllama import (
    get_all_supported_aspect_ratios,
    get_optimal_tiled_canvas,
)

from mmllm.errors import MmllmError
from mmllm.inspection.views import view
from mmllm.processors.canvas import CanvasProcessor, canvas_of, canvases

EDGES = (1, 2, 7, 100, 279, 280, 281, 559, 560, 561, 1119, 1120, 1121, 1680, 2239, 2240, 2241, 4096)


@pytest.mark.parametrize(("tile", "most"), [(560, 4), (448, 4), (560, 1), (336, 6)])
def test_the_canvas_is_transformers_own(tile: int, most: int) -> None:
    draw = Random(0)
    sizes = [(a, b) for a in EDGES for b in EDGES] + [
        (draw.randint(1, 4096), draw.randint(1, 4096)) for _ in range(1000)
    ]
    for width, height in sizes:
        rows, cols = get_optimal_tiled_canvas.__wrapped__(height, width, most, tile)
        found = canvas_of(width, height, tile, most)
        assert (found.rows * tile, found.cols * tile) == (rows, cols), (width, height)
    assert [(one.rows, one.cols) for one in canvases(most)] == get_all_supported_aspect_ratios(most)


def processor(side: int = 28, most: int = 4) -> CanvasProcessor:
    own = t.MllamaImageProcessor(size={"height": side, "width": side}, max_image_tiles=most)
    return CanvasProcessor(own, most=most, tokens=17, max_pixels=1_000_000)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (28, 28), (29, 28), (57, 23), (200, 60), (90, 50)])
def test_an_item_is_what_the_folders_processor_makes(size: tuple[int, int]) -> None:
    image = Image.effect_noise(size, 60).convert("RGB")
    item = processor().read(image)
    own = t.MllamaImageProcessor(size={"height": 28, "width": 28})([image], return_tensors="pt")
    assert torch.equal(item["pixels"], own["pixel_values"][0, 0])
    assert int(item["aspect"]) == int(own["aspect_ratio_ids"]) and int(item["tiles"]) == own["num_tiles"][0][0]
    assert not item["pixels"][int(item["tiles"]) :].any()


def test_a_processor_of_another_kind_is_refused() -> None:
    with pytest.raises(MmllmError, match=r"\(CLIPImageProcessor\) has max_image_tiles: none, and the tower takes 4"):
        CanvasProcessor(t.CLIPImageProcessor(), most=4, tokens=17, max_pixels=1000)
    with pytest.raises(MmllmError, match="has max_image_tiles: 3, and the tower takes 4 tiles"):
        CanvasProcessor(t.MllamaImageProcessor(max_image_tiles=3), most=4, tokens=17, max_pixels=1000)


def test_tiles_are_shown_where_they_stand() -> None:
    picture = Image.new("RGB", (56, 28), "red")
    picture.paste((0, 0, 255), (28, 0, 56, 28))
    one = processor()
    shown = view("<image> 1", one, picture, one.read(picture))
    assert shown.facts == "1 x 2 tiles, and 2 empty, each 28 x 28 pixels; 4 x 1 x 17 = 68 tokens of the encoder"
    assert [name for name, _ in shown.pictures] == ["row 1, column 1", "row 1, column 2"]
    assert [tile.getpixel((14, 14)) for _, tile in shown.pictures] == [(255, 0, 0), (0, 0, 255)]
