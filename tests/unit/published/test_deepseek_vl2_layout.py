"""DeepSeek-VL2's layout of a picture, of which transformers has no class: tokens by its size alone, and their order."""

from __future__ import annotations

import torch

from mmllm.connectors.projectors.pixel_shuffle import PixelShuffleConnector
from mmllm.connectors.stitching import Stitch
from mmllm.model.inputs import Input
from mmllm.published.media.pictures import picture
from mmllm.testing.tiny.encoders import tiles
from mmllm.types import Cut, Features, Tiling

SIDES = (1, 20, 28, 40, 57, 100, 250, 333, 700)


def chosen(width: int, height: int, candidates: list[tuple[int, int]]) -> tuple[int, int]:
    """The candidate (width, height) as arXiv 2412.10302 says: most of the picture's pixels, then fewest wasted."""
    best, most, least = candidates[0], 0, float("inf")
    for wide, high in candidates:
        scale = min(wide / width, high / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        if shown > most or (shown == most and wide * high - shown < least):
            best, most, least = (wide, high), shown, wide * high - shown
    return best


def test_tokens_follow_from_a_pictures_size() -> None:
    """14 x 15 + 1 + 14 rows x (14 columns + 1) there; here a tile has 4 x 4 patches, which pad to 2 x 2 tokens."""
    side = 32
    candidates = [(side * cols, side * rows) for cols in range(1, 10) for rows in range(1, 10) if cols * rows <= 9]
    encoder = tiles(rule="resolutions", resolutions=[[high, wide] for wide, high in candidates])
    rows_of_patches = encoder.processor.image.fixed_grid()[0]
    connector = PixelShuffleConnector(dim=encoder.dim, llm_dim=8, factor=3, pad=True)
    connector.stitch = Stitch(llm_dim=8, newline="every", unpad=False)
    entry = Input("image", {"image": encoder}, connector)
    h = -(-rows_of_patches // 3)
    assert rows_of_patches % 3, "padded"
    unit = encoder.processor.image.size[0]
    assert unit == side, "one tile of the tiny tower"
    for width in SIDES:
        for height in SIDES:
            wide, high = chosen(width, height, candidates)
            expected = h * (h + 1) + 1 + high // side * h * (wide // side * h + 1)
            found = sum(span.length for span in entry.layout(entry.measure(picture(width, height))))
            assert found == expected, (width, height)


def test_the_view_the_separator_and_the_map() -> None:
    stitch = Stitch(llm_dim=1, newline="every", unpad=False)
    with torch.no_grad():
        stitch.newline.fill_(-1.0)  # type: ignore[union-attr]
        stitch.separator.fill_(-2.0)  # type: ignore[union-attr]
    tokens = torch.arange(12.0)[:, None]
    cut = Cut(Tiling(1, 2, first=True), 60, 30)
    found, counts = stitch(tokens, [(3, 2, 2)], [cut])
    view, shown = [0, 1, -1, 2, 3, -1], [4, 5, 8, 9, -1, 6, 7, 10, 11, -1]
    assert found[:, 0].tolist() == [*view, -2, *shown] and counts == [17]
    assert stitch.grids((3, 2, 2), cut) == [(2, 3), (1,), (2, 5)]
    last = Cut(Tiling(1, 2), 60, 30)
    found, _ = stitch(tokens, [(3, 2, 2)], [last])
    assert found[:, 0].tolist() == [0, 1, 4, 5, -1, 2, 3, 6, 7, -1, -2, 8, 9, -1, 10, 11, -1]
    assert stitch.grids((3, 2, 2), last) == [(2, 5), (1,), (2, 3)]


def test_padding_is_zeros_at_the_right_and_bottom() -> None:
    connector = PixelShuffleConnector(dim=2, llm_dim=4, factor=2, pad=True)
    x = torch.arange(2 * 3 * 5 * 2.0).reshape(1, 30, 2)
    features = Features({-1: x}, torch.ones(1, 30, dtype=torch.bool), (2, 3, 5))
    padded = torch.nn.functional.pad(x.reshape(2, 3, 5, 2), (0, 0, 0, 1, 0, 1)).reshape(1, 48, 2)
    whole = Features({-1: padded}, torch.ones(1, 48, dtype=torch.bool), (2, 4, 6))
    assert connector.out_grid((2, 3, 5)) == (2, 2, 3)
    assert torch.equal(connector.shuffle(features), PixelShuffleConnector(dim=2, llm_dim=4).shuffle(whole))
