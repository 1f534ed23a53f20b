"""Tiles that become one map: as many tokens as transformers' processors count, and in the order of its models."""

from __future__ import annotations

from math import prod
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as t

from mmllm.connectors.stitching import Map, Stitch
from mmllm.errors import MmllmError
from mmllm.processors.image import HfTransform, ImageProcessor
from mmllm.processors.tiles import TilesProcessor
from mmllm.types import Cut, Tiling

NEXT = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ONEVISION = [[384 * rows, 384 * cols] for rows in range(1, 7) for cols in range(1, 7)]
EDGES = (1, 2, 3, 335, 336, 337, 383, 384, 385, 672, 767, 768, 1152, 2304, 4095, 4096)


def sizes(n: int) -> list[tuple[int, int]]:
    """(height, width): every pair of edges, and ``n`` at random up to 4,096 x 4,096, a quarter of them strips."""
    draw = Random(0)
    found = [(a, b) for a in EDGES for b in EDGES]
    found += [(draw.randint(1, 4096), draw.randint(1, 4096)) for _ in range(n)]
    return found + [(draw.randint(1, 9), draw.randint(1, 4096)) for _ in range(n // 4)]


def cutter(side: int, patch: int, resolutions: list[list[int]]) -> TilesProcessor:
    """Of tiles of ``side`` pixels; nothing is read with it."""
    image = ImageProcessor(HfTransform(None, (side, side), "own", True), size=(side, side), patch=(patch, patch))
    return TilesProcessor(image, rule="resolutions", resolutions=resolutions)


def counted(processor: TilesProcessor, stitch: Stitch, height: int, width: int) -> int:
    """Tokens of a picture of this size."""
    cut = Cut(processor.tiling_of(width, height), width, height)
    rows, cols = processor.image.fixed_grid()
    return sum(map(prod, stitch.grids((cut.tiling.n, rows, cols), cut)))


@pytest.mark.parametrize(
    ("side", "patch", "resolutions"),
    [(336, 14, NEXT), (336, 14, [[336, 336], *NEXT]), (28, 4, [[56, 84], [84, 56], [140, 28], [28, 112]])],
    ids=["published", "one tile too", "7 x 7"],
)
def test_counts_are_those_of_llava_next(side: int, patch: int, resolutions: list[list[int]]) -> None:
    own = t.LlavaNextImageProcessor(image_grid_pinpoints=resolutions)
    tokenizer: Any = SimpleNamespace(image_token="<image>", image_token_id=3)
    theirs = t.LlavaNextProcessor.__new__(t.LlavaNextProcessor)
    theirs.image_processor, theirs.tokenizer = own, tokenizer
    theirs.patch_size, theirs.num_additional_image_tokens = patch, 0
    processor, stitch = cutter(side, patch, resolutions), Stitch(llm_dim=4)
    for height, width in sizes(1200):
        expected = theirs._get_number_of_features(height, width, side, side)
        assert counted(processor, stitch, height, width) == expected, (height, width)


@pytest.mark.parametrize(("most", "patch"), [(9, 16), (4, 16), (9, 128)])
def test_counts_are_those_of_llava_onevision(most: int, patch: int) -> None:
    theirs = t.LlavaOnevisionProcessor.__new__(t.LlavaOnevisionProcessor)
    theirs.image_processor = t.LlavaOnevisionImageProcessor(image_grid_pinpoints=ONEVISION)
    theirs.num_image_tokens, theirs.vision_aspect_ratio = (384 // patch) ** 2, f"anyres_max_{most}"
    processor, stitch = cutter(384, patch, ONEVISION), Stitch(llm_dim=4, most=most)
    shrunk = 0
    for height, width in sizes(600):
        expected = theirs._get_number_of_features(height, width, 384, 384)
        assert counted(processor, stitch, height, width) == expected, (height, width)
        cut = Cut(processor.tiling_of(width, height), width, height)
        part = Map.of(processor.image.fixed_grid(), cut, True, most)
        shrunk += part.size != (part.rows, part.cols)
    assert shrunk > 50


def test_ties_go_to_the_first_of_the_list() -> None:
    """A picture of one tile is wholly seen in all of them: the smallest, and of those of one size the first."""
    assert cutter(28, 7, [[28, 84], [28, 56], [56, 28]]).tiling_of(28, 28) == Tiling(1, 2, first=True)
    assert cutter(28, 7, [[28, 84], [56, 28], [28, 56]]).tiling_of(20, 20) == Tiling(2, 1, first=True)


def numbered(n: int, rows: int, cols: int) -> torch.Tensor:
    """float[n * rows * cols, 1], each token its number."""
    return torch.arange(float(n * rows * cols))[:, None]


def test_the_map_is_row_by_row_with_a_newline_behind_each() -> None:
    """Two tiles of 2 x 2 beside each other behind the view of all; a wide picture loses a row above and below."""
    stitch = Stitch(llm_dim=1)
    with torch.no_grad():
        stitch.newline.fill_(-1.0)  # type: ignore[union-attr]
    square, wide = Cut(Tiling(2, 1, True), 30, 60), Cut(Tiling(2, 1, True), 30, 15)
    grids = [(3, 2, 2)] * 2
    tokens, counts = stitch(numbered(3, 2, 2).repeat(2, 1), grids, [square, wide])
    assert counts == [4 + 12, 4 + 6]
    one, other = (part.flatten().tolist() for part in tokens.split(counts))
    assert one == [0, 1, 2, 3, 4, 5, -1, 6, 7, -1, 8, 9, -1, 10, 11, -1]
    assert other == [0, 1, 2, 3, 6, 7, -1, 8, 9, -1], "of three border rows one stays"
    assert [sum(map(prod, stitch.grids((3, 2, 2), cut))) for cut in (square, wide)] == counts


def test_other_newlines_and_the_view_of_all_behind() -> None:
    beside = Cut(Tiling(1, 2), 60, 30)
    for newline, expected in (
        ("none", [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 10, 11]),
        ("end", [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 10, 11, 99]),
        ("row", [0, 1, 4, 5, 99, 2, 3, 6, 7, 99, 8, 9, 10, 11]),
    ):
        stitch = Stitch(llm_dim=1, newline=newline, unpad=False)  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in stitch.parameters():
                parameter.fill_(99.0)
        tokens, counts = stitch(numbered(3, 2, 2), [(3, 2, 2)], [beside])
        assert tokens.flatten().tolist() == expected and counts == [len(expected)]
        alone, _ = stitch(numbered(1, 2, 2), [(1, 2, 2)], [Cut(Tiling(1, 1), 30, 30)])
        assert alone.flatten().tolist() == [0, 1, 2, 3] + [99] * (newline != "none")


def test_of_a_strip_newlines_alone_are_left_or_nothing() -> None:
    """As transformers counts them: rows without columns end in newlines too."""
    stitch = Stitch(llm_dim=1)
    strips = [Cut(Tiling(2, 2, True), 4096, 1), Cut(Tiling(2, 2, True), 1, 4096)]
    assert [stitch.grids((5, 4, 4), strip) for strip in strips] == [[(4, 4)], [(4, 4), (8, 1)]]
    tokens, counts = stitch(numbered(5, 4, 4).repeat(2, 1), [(5, 4, 4)] * 2, strips)
    assert counts == [16, 24] and tokens.flatten().tolist()[:16] == list(range(16))
    assert torch.equal(tokens[32:], stitch._vector(8, tokens))
    alone, _ = stitch(numbered(5, 4, 4), [(5, 4, 4)], strips[:1])
    alone.sum().backward()
    assert stitch.newline is not None and stitch.newline.grad is not None, "a rank that shows none takes part"


def test_tokens_that_are_no_tiles_are_refused() -> None:
    with pytest.raises(MmllmError, match=r"stitch: the connector gives a grid of \(64,\) for 3 tiles; use one that"):
        Stitch(llm_dim=1).grids((64,), Cut(Tiling(1, 2), 9, 9))
