"""``hf_native`` with towers of Qwen-VL: patches block by block, windows, resampled positions; raster order here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy
import pytest
import torch
import transformers as t
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from mmllm.encoders.image.native.hf_native import HfNativeEncoder
from mmllm.encoders.outlines.outline import outline
from mmllm.errors import MediaError, MmllmError
from mmllm.processors.native.qwen import QwenPatching
from mmllm.published.media.pictures import picture
from mmllm.testing import check_encoder
from mmllm.testing.tiny.published import published_folder

KINDS = ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL")
SIZES = ((50, 30), (30, 50), (90, 20), (64, 64))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("qwen")
    return {kind: str(published_folder(kind, place / kind)) for kind in KINDS}


def read(encoder: HfNativeEncoder, sizes: Any = SIZES) -> dict[str, torch.Tensor]:
    return encoder.processor.collate([encoder.processor.read(picture(*size)) for size in sizes])


def in_order(rows: int, cols: int, window: int) -> Iterator[int]:
    """Raster number of each patch as the tower has them: windows of blocks of 2 x 2, all in raster order."""
    for top, left in product(range(0, rows // 2, window), range(0, cols // 2, window)):
        for r, c in product(range(top, min(top + window, rows // 2)), range(left, min(left + window, cols // 2))):
            yield from ((2 * r + i) * cols + 2 * c + j for i, j in product(range(2), range(2)))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_packed_pictures_have_the_features_of_transformers_own(kind: str, folders: dict[str, str]) -> None:
    layers = (0, 1, -1)
    encoder = HfNativeEncoder(model=folders[kind], layers=[*layers, "final"])
    found = encoder(**read(encoder))
    own = t.AutoImageProcessor.from_pretrained(folders[kind])
    tower = t.AutoModelForImageTextToText.from_pretrained(folders[kind]).model.visual.eval()
    entered: list[torch.Tensor] = []
    tower.blocks[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    outputs: list[torch.Tensor] = []
    for block in tower.blocks:
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
    for number, size in enumerate(SIZES):
        entered.clear(), outputs.clear()
        given = own([picture(*size)], return_tensors="pt")
        tower(given["pixel_values"], grid_thw=given["image_grid_thw"])
        grid = found.item_grids()[number]
        assert (1, *grid) == tuple(given["image_grid_thw"][0].tolist())
        places = torch.tensor(list(in_order(*grid, window=4 if kind == "Qwen2_5_VL" else 99)))
        for layer, state in zip(layers, (entered[0], outputs[0], outputs[-1]), strict=True):
            ours = found.layers[layer][number]
            torch.testing.assert_close(ours[places], state, atol=1e-5, rtol=1e-5)
            assert not ours[len(places) :].any(), "zeros behind a smaller picture"
    assert torch.equal(found.layers["final"], found.layers[-1])
    assert len(set(found.item_grids())) == 4
    assert not any("merger" in name for name, _ in encoder.named_parameters()), "mergers are connectors"


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_of_encoders_holds(kind: str, folders: dict[str, str]) -> None:
    check_encoder(lambda: HfNativeEncoder(model=folders[kind]))


@torch.no_grad()
def test_connectors_inside_see_a_row_for_each_picture(folders: dict[str, str]) -> None:
    encoder = HfNativeEncoder(model=folders["Qwen2_5_VL"], layers=[-1])

    def change(context: Any, x: torch.Tensor) -> torch.Tensor:
        # of each picture's own mean: what packing had mixed up would show
        return x - x.sum(1, keepdim=True) / context.layout.mask.sum(1)[:, None, None]

    before = encoder(**read(encoder)).layers[-1]
    encoder.hook_points().before_mlp(1, change)
    together = encoder(**read(encoder)).layers[-1]
    for number, size in enumerate(SIZES):
        alone = encoder(**read(encoder, [size])).layers[-1][0]
        torch.testing.assert_close(together[number, : len(alone)], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together, before, atol=1e-3)


@pytest.mark.parametrize(("patch", "least", "most"), [(14, 3136, 1003520), (16, 65536, 16777216), (7, 784, 4900)])
def test_sizes_are_transformers_own(patch: int, least: int, most: int) -> None:
    draw = Random(0)
    made = QwenPatching(None, patch, least, most, merge=2, steps=2)
    sizes = [(draw.randint(1, 3000), draw.randint(1, 3000)) for _ in range(300)]
    edges = (1, 13, 14, 41, 42, 70, 100, 1023, 1025)
    for width, height in sizes + [(a, b) for a in edges for b in edges]:
        if max(width, height) / min(width, height) > 200:
            with pytest.raises(MediaError, match=rf"the picture of {width} x {height} pixels is too narrow"):
                made.grid(width, height)
            continue
        rows, cols = smart_resize(height, width, 2 * patch, least, most)
        assert made.grid(width, height) == (rows // patch, cols // patch), (width, height)


def test_limits_and_what_does_not_fit(folders: dict[str, str], tmp_path: Path) -> None:
    folder = folders["Qwen2VL"]
    small = HfNativeEncoder(model=folder, least=14 * 14, most=28 * 28)
    item = small.processor.read(picture(200, 100))
    assert small.processor.grid(item) == (2, 4) == small.processor.grid(small.processor.measure(picture(200, 100)))
    known = outline("hf_native", {"model": folder, "most": 28 * 28})
    assert known is not None and known.dim == 16, "the tower's width, not the LLM's"
    with pytest.raises(MmllmError, match=r"longest: 9: .* does not limit pictures so; it knows least and most"):
        HfNativeEncoder(model=folder, longest=9)
    with pytest.raises(MmllmError, match="least: 900 pixels are more than most: 800"):
        HfNativeEncoder(model=folder, least=900, most=800)
    with pytest.raises(MmllmError, match="merge: 3: this tower always merges 2; leave the word out"):
        HfNativeEncoder(model=folder, merge=3)
    other = published_folder("Qwen2VL", tmp_path / "other")
    settings = json.loads((other / "processor_config.json").read_text())
    settings["image_processor"]["patch_size"] = 14
    (other / "processor_config.json").write_text(json.dumps(settings))
    with pytest.raises(MmllmError, match="has patch_size: 14, but its tower takes 7"):
        HfNativeEncoder(model=str(other))


def test_what_is_shown_is_the_picture(folders: dict[str, str]) -> None:
    encoder = HfNativeEncoder(model=folders["Qwen3VL"])
    shown = picture(56, 42)
    item = encoder.processor.read(shown)
    pixels = encoder.processor.patching.pixels(item["patches"], encoder.processor.grid(item))
    own = encoder.processor.patching.own
    mean, std = (torch.tensor(values)[:, None, None] for values in (own.image_mean, own.image_std))
    expected = torch.from_numpy(numpy.array(shown)).permute(2, 0, 1) / 255
    assert pixels.shape == expected.shape, "56 x 42 are whole blocks of 14: nothing is resized"
    torch.testing.assert_close(pixels * std + mean, expected, atol=1e-5, rtol=0)
