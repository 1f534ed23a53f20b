"""LFM2-VL as a run: how a picture is cut and how large its view is, by its size alone; what cannot be taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers as t

import mmllm
from mmllm.connectors.projectors.mlp import MlpConnector
from mmllm.errors import MmllmError, RecipeError
from mmllm.inspection.views import view
from mmllm.model.inputs import Input
from mmllm.model.item_text import ItemText
from mmllm.processors.native.lfm2_vl import Lfm2VlPatching
from mmllm.processors.native.processor import Limits
from mmllm.processors.native.tiles import NativeTilesProcessor
from mmllm.published.importing import import_checkpoint
from mmllm.published.media.pictures import picture
from mmllm.testing.tiny.published import published_folder

SIZES = [
    (1, 1), (1, 200), (200, 1), (13, 14), (56, 56), (57, 55), (120, 200), (160, 160), (333, 250), (250, 333),
    (500, 250), (250, 500), (900, 100), (100, 900), (224, 224), (225, 223),
]  # fmt: skip


def own(**words: Any) -> Any:
    """An image processor whose pictures are cut from 25088 pixels on."""
    given = {"encoder_patch_size": 7, "tile_size": 56, "min_image_tokens": 4, "max_image_tokens": 64, "max_tiles": 6}
    return t.Lfm2VlImageProcessor(**{**given, **words})


@pytest.mark.parametrize("words", [{}, {"downsample_factor": 4, "max_image_tokens": 16}, {"max_pixels_tolerance": 0.5}])
def test_tiles_and_views_are_counted_before_a_picture_is_read(words: dict[str, Any]) -> None:
    """As its image processor makes them, and as its own processor counts their tokens."""
    made = own(**words)
    processor = NativeTilesProcessor(Lfm2VlPatching.of(made, 7, Limits()), [2, 6])
    tiled = 0
    for width, height in SIZES:
        found = made([picture(width, height)], return_tensors="pt", return_row_col_info=True)
        cut = processor.cut(picture(width, height))
        assert (cut.tiling.rows, cut.tiling.cols) == (found["image_rows"][0], found["image_cols"][0]), (width, height)
        assert [list(grid) for grid in processor.pictures(cut)] == found["spatial_shapes"].tolist()
        item = processor.read(picture(width, height))
        assert len(item["patches"]) == int(found["pixel_attention_mask"].sum()) == processor.grid(item)[0]
        tiled += cut.tiling.n > 1
    assert 3 <= tiled < len(SIZES)


def test_limits_of_a_picture() -> None:
    patching = Lfm2VlPatching.of(own(), 7, Limits(smallest=14**2 * 8, largest=14**2 * 20))
    assert (patching.least, patching.most) == (8, 20)
    assert len(patching.patches(picture(333, 250))) == 4 * 5 * 3, "5 x 3 blocks of four patches"
    for limits, sentence in (
        (Limits(longest=100), "does not limit pictures so; it knows least and most"),
        (Limits(merge=3), "keeps sides to multiples of 2"),
        (Limits(largest=100), "least and most: pictures of 4 to 0 blocks"),
    ):
        with pytest.raises(MmllmError, match=sentence):
            Lfm2VlPatching.of(own(), 7, limits)
    with pytest.raises(MmllmError, match=r"has patches of 7 pixels, its tower of 14; mend encoder_patch_size"):
        Lfm2VlPatching.of(own(), 14, Limits())
    with pytest.raises(MmllmError, match=r"tiles: \[1, 6\] must be \[least, most\], at least 2"):
        NativeTilesProcessor(patching, [1, 6])
    with pytest.raises(MmllmError, match=r"tile_size.* are no whole blocks of 2 x 2 patches of 7"):
        NativeTilesProcessor(Lfm2VlPatching.of(own(tile_size=63), 7, Limits()), [2, 6])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_folder("Lfm2Vl", tmp_path_factory.mktemp("lfm2") / "vlm")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"use_thumbnail": False}, r"without a view of all of them \(use_thumbnail: false\).*--no-tiles"),
        ({"min_tiles": 1}, r"may cut a picture into one tile \(min_tiles: 1\).*--no-tiles"),
        ({"downsample_factor": 4}, "merges 2 patches a side, its image processor counts 4"),
        ({"do_normalize": False}, "leaves out a step"),
    ],
)
def test_what_cannot_be_imported(words: dict[str, Any], sentence: str, folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "vlm")
    path = tmp_path / "vlm" / "processor_config.json"
    said = json.loads(path.read_text())
    said["image_processor"] |= words
    path.write_text(json.dumps(said))
    with pytest.raises(MmllmError, match=sentence):
        import_checkpoint(str(tmp_path / "vlm"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_text_between_tiles(folder: Path, tmp_path: Path) -> None:
    """The word `tiles` of the connector may go; the spans stay those of the pictures."""
    import_checkpoint(str(folder), tmp_path / "run")
    entry = mmllm.load(tmp_path / "run").model.inputs["image"]
    plain = Input("image", entry.encoders, entry.connector, ItemText())  # type: ignore[arg-type]
    item = entry.read(picture(333, 250))
    spans, bare = entry.layout(item), plain.layout(plain.read(picture(333, 250)))
    assert [span.grid for span in bare] == [span.grid for span in spans] and len(spans) > 3
    assert spans[0].separator == "<|img_row_1_col_1|>" and {span.separator for span in bare} == {""}


def test_a_picture_in_tiles_is_shown() -> None:
    processor = NativeTilesProcessor(Lfm2VlPatching.of(own(), 7, Limits()), [2, 6])
    shown = view("<image>", processor, picture(333, 250), processor.read(picture(333, 250)))
    assert shown.facts.startswith("2 x 3 tiles and all of it, 56 x 56 and "), shown.facts
    assert shown.pictures[-1][0] == "all of it" and shown.pictures[0][1].size == (56, 56)


def test_connectors_that_need_one_size_are_refused(folder: Path, tmp_path: Path) -> None:
    import_checkpoint(str(folder), tmp_path / "run")
    entry = mmllm.load(tmp_path / "run").model.inputs["image"]
    connector = MlpConnector(dim=16, llm_dim=32)
    connector.stitch = object()  # type: ignore[assignment]
    with pytest.raises(RecipeError, match="beside a view of their shape, and `stitch` makes one map"):
        Input("image", entry.encoders, connector, ItemText())  # type: ignore[arg-type]
    connector.stitch = None
    two = {**entry.encoders, "other": next(iter(entry.encoders.values()))}
    with pytest.raises(RecipeError, match="another encoder sees no tiles"):
        Input("image", two, connector, ItemText())  # type: ignore[arg-type]
