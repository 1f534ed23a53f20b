"""Ovis 2 as a run: how a picture is cut by its size alone, marks that are no text, and what cannot be taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from transformers.models.ovis2.image_processing_ovis2 import get_min_tile_covering_grid

import mmllm
from mmllm.connectors.layers.basics import activation_of
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.connectors.stitching import Stitch
from mmllm.errors import MmllmError, RecipeError
from mmllm.model.inputs import Input
from mmllm.processors.tile_rules import covering
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import picture
from mmllm.testing.tiny.encoders import tiles
from mmllm.testing.tiny.published import published_folder
from tests.support.published import encoded, said


def test_the_grid_is_that_of_its_image_processor() -> None:
    """Over all shapes; rows and columns as it cuts, which are those of its count exchanged."""
    several = 0
    for tile, most in ((448, 12), (384, 9), (28, 4), (28, 6)):
        for width in (1, 27, 28, 29, 57, 100, 333, 448, 500, 768, 900, 1300, 2000):
            for height in (1, 28, 40, 100, 250, 384, 448, 449, 700, 1024, 1999):
                cols, rows = get_min_tile_covering_grid((height, width), tile, most)
                found = covering(width, height, tile, most)
                assert (found.rows, found.cols) == (rows, cols), (width, height, tile, most)
                assert found.n == (1 if rows * cols == 1 else rows * cols + 1) and found.first == (found.n > 1)
                several += found.n > 1
    assert several > 100
    assert (covering(768, 384, 384, 9).rows, covering(768, 384, 384, 9).cols) == (2, 1), "as its cut has it"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ovis2")
    published_folder("Ovis2", folder / "vlm")
    import_checkpoint(str(folder / "vlm"), folder / "run")
    return folder


@pytest.mark.parametrize("size", [(20, 20), (56, 28), (28, 60), (333, 250), (1, 90)])
def test_tokens_are_counted_before_a_picture_is_read(size: tuple[int, int], place: Path) -> None:
    entry = mmllm.load(place / "run").model.inputs["image"]
    processor = t.AutoProcessor.from_pretrained(place / "vlm")
    ids = processor(text=["<image>"], images=[picture(*size)], return_tensors="pt")["input_ids"]
    item = entry.measure(picture(*size))
    assert sum(span.length for span in entry.layout(item)) == ids.shape[1]
    assert item["image"]["cut"].tolist() == entry.read(picture(*size))["image"]["cut"].tolist()


def test_typed_marks_are_text(place: Path) -> None:
    """transformers would put a learned vector there; in every run what a user types is text."""
    model = mmllm.load(place / "run").model
    (typed,) = encoded(model, [said("image", "Is <IMG_COL> a mark?", "No.", 0)])
    assert model.llm.tokenizer.convert_tokens_to_ids("<IMG_COL>") not in typed.ids


def test_every_mark_has_its_place() -> None:
    """START, view, GRID, tile, COL, tile, ROW, tile, COL, tile, END."""
    from mmllm.types import Cut, Tiling

    stitch = Stitch(llm_dim=2, newline="marks", unpad=False)
    with torch.no_grad():
        stitch.marks.copy_(-torch.arange(1.0, 6.0)[:, None].expand(5, 2))  # type: ignore[union-attr]
    tokens = torch.arange(5.0)[:, None].expand(5, 2)
    cut = Cut(Tiling(2, 2, first=True), 60, 60)
    found, counts = stitch(tokens, [(5, 1, 1)], [cut])
    assert found[:, 0].tolist() == [-1, 0, -2, 1, -3, 2, -4, 3, -3, 4, -5] and counts == [11]
    assert len(stitch.grids((5, 1, 1), cut)) == 11
    alone, _ = stitch(tokens[:1], [(1, 1, 1)], [Cut(Tiling(1, 1), 20, 20)])
    assert alone[:, 0].tolist() == [-1, 0, -2, -5]


def test_marks_need_the_view_in_front() -> None:
    connector = MlpConnector(dim=16, llm_dim=32)
    connector.stitch = Stitch(llm_dim=32, newline="marks", unpad=False)
    with pytest.raises(RecipeError, match="marks the view of all of a picture in front of its tiles, and rule"):
        Input("image", {"image": tiles(most=4)}, connector)
    with pytest.raises(MmllmError, match="rule: covering takes as few tiles as may be; leave out least: 2"):
        tiles(rule="covering", least=2, most=4)


def test_the_likeliest_word_learns_as_the_softmax() -> None:
    logits = torch.randn(3, 7, requires_grad=True)
    hard, soft = activation_of("hard_softmax")(logits), activation_of("softmax")(logits)
    assert torch.equal(hard.argmax(-1), soft.argmax(-1)) and torch.allclose(hard.sum(-1), torch.ones(3))
    weight = torch.randn(3, 7)
    one, other = (torch.autograd.grad((x * weight).sum(), logits)[0] for x in (hard, soft))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("file", "words", "sentence"),
    [
        (
            "config.json",
            {"tokenize_function": "gumbel_argmax"},
            "gumbel_argmax draws a picture's visual words at",
        ),
        ("config.json", {"num_visual_indicator_tokens": 4}, "num_visual_indicator_tokens: 4; its processor writes 5"),
        ("processor_config.json", {"use_covering_area_grid": False}, "by the closest ratio .*: --no-tiles"),
        ("processor_config.json", {"image_seq_length": 9}, "makes 4 tokens of a tile, and its processor counts 9"),
    ],
)
def test_what_cannot_be_imported(file: str, words: dict[str, Any], sentence: str, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "vlm", tmp_path / "vlm")
    path = tmp_path / "vlm" / file
    found = json.loads(path.read_text())
    inner = found["vision_config"] if file == "config.json" else found["image_processor"]
    (found if "image_seq_length" in words else inner).update(words)
    path.write_text(json.dumps(found))
    with pytest.raises(MmllmError, match=sentence):
        import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stride_that_leaves_a_rest_is_refused(tmp_path: Path) -> None:
    published_folder("Ovis2", tmp_path / "vlm", tower={"hidden_stride": 3})
    with pytest.raises(MmllmError, match="has 4 patches a side and a hidden_stride of 3, which leaves a rest"):
        import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run")


def test_another_order_of_marks_is_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "vlm", tmp_path / "vlm")
    path = tmp_path / "vlm" / "config.json"
    found = json.loads(path.read_text())
    found["visual_indicator_token_ids"].reverse()
    path.write_text(json.dumps(found))
    with pytest.raises(MmllmError, match=r"has the marks <IMG_END>, .* its processor writes <IMG_START>, "):
        import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run")
