"""Position ids: a pure function of a conversation's length and of where its media lie."""

from __future__ import annotations

import torch

from mmllm.batches.positions import positions
from mmllm.batches.sample import MediaSpan
from mmllm.hooks.passes import next_position
from mmllm.types import PositionScheme
from tests.support.vlms import tiny_vlm

SPANS = [MediaSpan(2, 4, "image", 0, (2, 2)), MediaSpan(9, 6, "video", 0, (1, 2, 3))]
MROPE = PositionScheme("mrope")


def test_sequential_positions_count_text_and_media_alike() -> None:
    found = positions(SPANS, 20)
    assert found.shape == (1, 20) and torch.equal(found[0], torch.arange(20))
    assert positions([], 0).shape == (1, 0)


def test_text_counts_alike_on_three_axes() -> None:
    assert torch.equal(positions([], 9, MROPE), torch.arange(9).expand(3, -1))
    assert positions([], 0, MROPE).shape == (3, 0)
    # what has no rows and columns counts as text does: sounds, graphs, an item without places
    others = [MediaSpan(2, 4, "sound", 0, (4,)), MediaSpan(7, 0, "image", 0, (0, 0)), MediaSpan(8, 0, "none", 0, (0,))]
    assert torch.equal(positions(others, 9, MROPE), torch.arange(9).expand(3, -1))


def test_three_axes_are_those_of_the_published_models() -> None:
    """Qwen2.5-VL's own index: pictures, clips longer than wide, media side by side, at the start and at the end."""
    model = tiny_vlm("Qwen2_5_VL")
    merge, per_second = 2, model.config.vision_config.tokens_per_second
    # two neighbours of one kind are one group there, and the model fails: between them is text
    items = [(0, 0, "image", (2, 3)), (6, 1.1, "video", (6, 2, 2)), (33, 0.37, "video", (4, 1, 3))]
    items += [(51, 0, "image", (5, 1))]
    spans, kinds = [], torch.zeros(1, 56, dtype=torch.int64)
    for number, (start, seconds, key, grid) in enumerate(items):
        length = torch.tensor(grid).prod().item()
        spans.append(MediaSpan(start, length, key, number, grid, seconds or None))
        kinds[0, start : start + length] = 1 if key == "image" else 2
    grids = {key: torch.tensor([[(1, *g)[-3:][0], merge * g[-2], merge * g[-1]] for _, _, k, g in items if k == key])
             for key in ("image", "video")}  # fmt: skip
    seconds = torch.tensor([one for _, one, key, _ in items if key == "video"])
    found, _ = model.model.get_rope_index(
        torch.zeros_like(kinds), kinds, grids["image"], grids["video"], second_per_grid_ts=seconds
    )
    assert torch.equal(positions(spans, 56, PositionScheme("mrope", per_second)), found[:, 0])
    # without seconds each step takes one position, as in Qwen2-VL
    plain, _ = tiny_vlm("Qwen2VL").model.get_rope_index(torch.zeros_like(kinds), kinds, grids["image"], grids["video"])
    assert torch.equal(positions(spans, 56, MROPE), plain[:, 0])


def test_a_token_behind_has_the_position_that_it_would_have_in_the_whole() -> None:
    """Behind text, a picture and a clip whose times are above all else."""
    spans = [MediaSpan(3, 8, "clip", 0, (4, 1, 2), 1.5), MediaSpan(14, 6, "image", 0, (2, 3))]
    for scheme in (MROPE, PositionScheme("mrope", 4), PositionScheme()):
        whole = positions(spans, 24, scheme)
        for length in (2, 11, 12, 20, 23):
            begun = [span for span in spans if span.start + span.length <= length]
            behind = next_position(positions(begun, length, scheme)[:, None])
            assert torch.equal(behind[:, 0], whole[:, length])
