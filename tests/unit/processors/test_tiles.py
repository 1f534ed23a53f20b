"""How many tiles a picture gets equals transformers' own count for every size; tiles are cut row by row."""

from __future__ import annotations

import io
import math
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from mmllm.errors import MediaError, MmllmError
from mmllm.processors.image import HfTransform, ImageProcessor
from mmllm.processors.tile_rules import closest_ratio, longest_side, partition
from mmllm.processors.tiles import TilesProcessor, size_of
from mmllm.types import Among, Tiling

EDGES = (1, 2, 7, 100, 335, 336, 337, 363, 364, 365, 447, 448, 449, 896, 897, 1456, 2000, 4095, 4096)


def sizes() -> list[tuple[int, int]]:
    """Every pair of edges, and 2,000 at random up to 4,096 x 4,096."""
    draw = Random(0)
    return [(a, b) for a in EDGES for b in EDGES] + [
        (draw.randint(1, 4096), draw.randint(1, 4096)) for _ in range(2000)
    ]


@pytest.mark.parametrize(("least", "most"), [(1, 12), (1, 6), (2, 9), (1, 1)])
def test_the_nearest_shape_is_transformers_own(least: int, most: int) -> None:
    for width, height in sizes():
        found = closest_ratio(width, height, (448, 448), least, most)
        cols, rows = get_optimal_tiled_canvas((height, width), (448, 448), least, most)
        assert (found.cols, found.rows) == (cols, rows), (width, height)
        assert found.n == rows * cols + (rows * cols > 1)


@pytest.mark.parametrize(("tile", "longest"), [(364, 1456), (512, 2048), (364, 364), (364, 5000)])
def test_the_longest_side_is_transformers_own(tile: int, longest: int) -> None:
    own = t.Idefics3ImageProcessor(size={"longest_edge": longest}, max_image_size={"longest_edge": tile})
    for width, height in sizes():
        found = longest_side(width, height, tile, longest)
        n, rows, cols = own.get_number_of_image_patches(height, width)
        assert found.n == max(n, 1), (width, height)
        if n:
            assert (found.rows, found.cols, found.whole) == (rows, cols, True), (width, height)


def test_the_partition_is_the_papers() -> None:
    """AdaptVision's formula in fractions: m = min(ceil(max(H, W) / s), 3), and ceil of the other side brought along."""
    for width, height in sizes():
        m = min(math.ceil(Fraction(max(width, height), 336)), 3)
        other = math.ceil(Fraction(min(width, height) * m * 336, max(width, height)) / 336)
        found = partition(width, height, 336, 1008)
        assert (found.rows, found.cols) == ((other, m) if width >= height else (m, other)), (width, height)
        assert 1 <= found.rows * found.cols <= 9 and found.n == found.rows * found.cols + 1
    assert partition(640, 480, 336, 1008) == Tiling(2, 2, first=True)
    one = processor(rule="partition", longest=24)
    assert one.read(coloured(2, 4))["pixels"].shape == (7, 3, 8, 8) and len(one.blank()["pixels"]) == 2


def processor(**words: Any) -> TilesProcessor:
    own = t.CLIPImageProcessor(size={"height": 8, "width": 8}, do_center_crop=False, do_normalize=False)
    image = ImageProcessor(HfTransform(own, (8, 8), "squash", True), size=(8, 8), patch=(4, 4), max_pixels=10_000)
    return TilesProcessor(image, **{"rule": "closest_ratio", **words})


def coloured(rows: int, cols: int, side: int = 8) -> Image.Image:
    """A picture whose squares have colours of their own."""
    values = np.zeros((rows * side, cols * side, 3), "uint8")
    for row in range(rows):
        for col in range(cols):
            values[row * side : (row + 1) * side, col * side : (col + 1) * side] = (40 * row, 40 * col, 99)
    return Image.fromarray(values)


def test_tiles_stand_row_by_row_and_the_whole_behind_them() -> None:
    one = processor(most=6)
    item = one.read(coloured(2, 3))
    assert item["pixels"].shape == (7, 3, 8, 8) and one.grid(item) == one.grid(one.measure(coloured(2, 3))) == (7, 2, 2)
    for number in range(6):
        expected = torch.tensor([40.0 * (number // 3), 40.0 * (number % 3), 99.0]) / 255
        torch.testing.assert_close(item["pixels"][number], expected[:, None, None].expand(3, 8, 8), atol=1e-6, rtol=0)
    torch.testing.assert_close(item["pixels"][6], one.image.read(coloured(2, 3))["pixels"])
    alone = one.read(coloured(1, 1))
    assert alone["pixels"].shape == (1, 3, 8, 8) and one.cut(coloured(1, 1)).tiling == Tiling(1, 1)
    both = one.collate([item, alone])
    assert both["pixels"].shape == (8, 3, 8, 8) and both["counts"].tolist() == [7, 1]
    assert one.fixed_grid() is None and one.grid(one.blank()) == (1, 2, 2)


def test_a_picture_keeps_its_shape_among_resolutions() -> None:
    """3 : 2 on a canvas of 2 x 2 tiles has black above and below; the view of all of it is squashed and in front."""
    one = processor(rule="resolutions", resolutions=[[16, 16], [8, 8]])
    image = Image.new("RGB", (24, 16), (200, 100, 50))
    item = one.read(image)
    assert item["cut"].tolist() == one.measure(image)["cut"].tolist() == [2, 2, 1, 24, 16]
    assert item["pixels"].shape == (5, 3, 8, 8) and one.grid(item) == (5, 2, 2)
    torch.testing.assert_close(item["pixels"][0], one.image.read(image)["pixels"])
    top, bottom = item["pixels"][1].sum(dim=(0, 2)), item["pixels"][3].sum(dim=(0, 2))
    assert (top[:2] == 0).all() and (top[3:] > 0).all() and (bottom[:5] > 0).all() and (bottom[6:] == 0).all()
    small = one.read(Image.new("RGB", (5, 5)))
    assert len(small["pixels"]) == 2 and small["cut"].tolist() == [1, 1, 1, 5, 5], "a tile and the view of all of it"
    blank = one.blank()
    assert len(blank["pixels"]) == 2 and one.grid(blank) == (2, 2, 2)


def test_several_pictures_of_a_conversation_may_be_taken_whole() -> None:
    one = processor(rule="resolutions", resolutions=[[16, 16]], several="whole")
    image = coloured(3, 2)
    assert len(one.read(image)["pixels"]) == 5
    beside = one.read(Among(image))
    assert beside["cut"].tolist() == one.measure(Among(image))["cut"].tolist() == [1, 1, 0, 16, 24]
    torch.testing.assert_close(beside["pixels"], one.image.read(image)["pixels"][None])
    assert one.content(Among(image)) != one.content(image)


def test_the_size_is_read_from_the_header(tmp_path: Path) -> None:
    wide = coloured(2, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    wide.save(tmp_path / "turned.jpg", exif=exif)
    data = io.BytesIO()
    wide.save(data, "PNG")
    assert size_of(tmp_path / "turned.jpg") == (16, 24) and size_of(data.getvalue()) == size_of(wide) == (24, 16)
    one = processor(most=6)
    assert one.cut(tmp_path / "turned.jpg").tiling == Tiling(3, 2)
    assert len(one.read(tmp_path / "turned.jpg")["pixels"]) == 7
    (tmp_path / "half.png").write_bytes(data.getvalue()[:20])
    for bad in (tmp_path / "none.png", tmp_path / "half.png", b"GIF89a"):
        with pytest.raises(MediaError):
            one.measure(bad)
    with pytest.raises(MediaError, match="has 160 x 160 pixels; at most 10000 are read"):
        one.measure(Image.new("RGB", (160, 160)))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            {"rule": "closest"},
            'tiles: rule: "closest" is unknown; known: closest_ratio, longest_side, resolutions, partition',
        ),
        ({"least": 3, "most": 2}, "tiles: least: 3 and most: 2 must be at least 1, and least no more than most"),
        ({"rule": "longest_side"}, "tiles: rule: longest_side needs `longest`, the longer side of a picture in pixels"),
        ({"rule": "partition", "longest": 7}, "tiles: rule: partition: longest: 7 holds no tile of 8 pixels"),
        ({"rule": "resolutions"}, r"rule: resolutions needs `resolutions`, a list of \[height, width\]; no other does"),
        ({"resolutions": [[8, 8]]}, r"rule: resolutions needs `resolutions`"),
        ({"rule": "resolutions", "resolutions": [[8, 12]]}, r"\[8, 12\] must be \[height, width\] in whole tiles of 8"),
        ({"rule": "resolutions", "resolutions": []}, "tiles: resolutions: the list is empty"),
        ({"several": "pad"}, 'tiles: several: "pad" is unknown; known: cut, whole'),
    ],
)
def test_wrong_words(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        processor(**words)


def test_a_folder_that_cuts_otherwise_is_refused() -> None:
    plain = processor(most=4)
    assert isinstance(plain.image.transform, HfTransform)
    plain.image.transform = HfTransform(plain.image.transform.processor, (8, 8), "own", True)
    with pytest.raises(
        MmllmError, match=r"\(CLIPImageProcessor\) has no crop_to_patches, which rule: closest_ratio sets"
    ):
        plain.read(coloured(2, 2))
