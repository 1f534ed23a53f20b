"""Rows as the model sees them: labels on the assistant's words alone, media of every modality as encoders get them."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from mmllm import registry
from mmllm.batches.sample import encode
from mmllm.encoders.base import Encoder
from mmllm.errors import MediaError
from mmllm.inspection.inputs import reading_of
from mmllm.inspection.pictures import denormalised
from mmllm.inspection.report import Report, inspect
from mmllm.inspection.rows import shown_row
from mmllm.inspection.tokens import pieces_of
from mmllm.inspection.views import view
from mmllm.model.build import build
from mmllm.processors.base import Item, ItemInfo, Processor
from mmllm.processors.image import HfTransform, ImageProcessor
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.types import IGNORE_INDEX
from tests.unit.inspection.recipes import ENDINGS, MINI, recipe, row, write_media


@pytest.fixture(scope="module")
def senses(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("senses")
    write_media(folder)
    rows = [row(**{key: f"{key}.{ending}"}) for key, ending in ENDINGS.items()]
    return inspect(recipe(folder, rows), first=len(rows))


def test_labels_are_exactly_what_the_assistant_says(tmp_path: Path) -> None:
    said = ["a red\nsquare <|end|>", "日本 🙂 ünï"]
    talk = row(said[0])
    talk["messages"] += [{"role": "user", "content": "and <|user|> then?"}, {"role": "assistant", "content": said[1]}]
    made = recipe(tmp_path, [talk], keys=("image",))
    shown = inspect(made).entries[0].rows[0]
    learned = "".join(piece.text for piece in shown.pieces if piece.learned)
    assert learned == f"{said[0]}<|end|>{said[1]}<|end|>"
    read = "".join(piece.text for piece in shown.pieces if not piece.learned)
    assert read == "<|user|>what is here?<|end|><|assistant|><|user|>and <|user|> then?<|end|><|assistant|>"
    control = [piece.text for piece in shown.pieces if piece.kind == "control"]
    # those that were typed are plain text
    assert control == ["<|user|>", "<|end|>", "<|assistant|>", "<|end|>"] * 2
    assert sum(piece.n_tokens for piece in shown.pieces) == shown.n_tokens
    assert sum(piece.n_tokens for piece in shown.pieces if piece.learned) == shown.n_labels


def test_pieces_are_the_tokens_of_training(tmp_path: Path) -> None:
    write_media(tmp_path)
    made = recipe(tmp_path, [row(image="image.png", video="video.mp4")], keys=("image", "video"))
    dataset = registry.load("datasets", "chat_jsonl")(path=f"{tmp_path}/chat.jsonl")
    reading, model = reading_of(made), build(made, "cpu")
    for key, entry in reading.inputs.items():
        assert entry.n_tokens() == model.inputs[key].n_tokens()
    ours = encode(dataset[0], reading.prompter, reading.inputs, 512, train=True)
    theirs = encode(dataset[0], reading.prompter, model.inputs, 512, train=True)
    assert ours.ids == theirs.ids and ours.labels == theirs.labels and ours.spans == theirs.spans
    for key, (item,) in ours.media.items():
        assert all(torch.equal(value, theirs.media[key][0][key][name]) for name, value in item[key].items())
    pieces = pieces_of(ours, reading.tokenizer)
    position = 0
    for piece in pieces:
        span = slice(position, position + piece.n_tokens)
        assert tuple(ours.ids[span]) == (piece.ids or (0,) * piece.n_tokens)
        assert {label != IGNORE_INDEX for label in ours.labels[span]} == {piece.learned}
        position += piece.n_tokens
    assert position == len(ours.ids)
    assert [piece.n_tokens for piece in pieces if piece.kind == "media"] == [16, 64, 64, 64]


def test_tiles_are_shown_where_they_stand() -> None:
    """A picture of two colours side by side: each in the tile that is called so, both in the view of all of it."""
    encoder = tiny_encoders.tiles()
    picture = Image.new("RGB", (40, 20), "red")
    picture.paste((0, 0, 255), (20, 0, 40, 20))
    item = encoder.processor.read(picture)
    shown = view("<image> 1", encoder.processor, picture, item)
    assert shown.facts.startswith("1 x 2 tiles and all of it, each ")
    assert [name for name, _ in shown.pictures] == ["row 1, column 1", "row 1, column 2", "all of it"]
    middles = [one.getpixel((one.width // 2, one.height // 2)) for _, one in shown.pictures[:2]]
    assert middles == [(255, 0, 0), (0, 0, 255)]
    square = Image.new("RGB", (20, 20))
    alone = view("<image> 1", encoder.processor, square, encoder.processor.read(square))
    assert alone.facts.startswith("in one piece, each ") and [name for name, _ in alone.pictures] == ["all of it"]


def test_every_modality_is_shown(senses: Report) -> None:
    rows = senses.entries[0].rows
    assert [shown.problem for shown in rows] == [None] * len(rows)
    facts = [shown.views[0].facts for shown in rows]
    assert facts[0] == "64 x 64 pixels after fitting; 8 x 8 = 64 tokens of the encoder"
    assert facts[1] == "3 frames of 64 x 64 pixels, 0.00 to 0.40 s; 3 x 8 x 8 = 192 tokens of the encoder"
    assert facts[2].startswith("1.38 s at 16,000 Hz in 1 window of ")
    assert facts[3] == "3 of 4 nodes, 2 edges, about node 3; 3 tokens of the encoder"
    assert facts[4] == "256 points on the unit sphere's scale; 32 tokens of the encoder"
    assert facts[5] == "7 words, 34 letters; 9 tokens of the encoder"
    assert [caption for caption, _ in rows[1].views[0].pictures] == ["0.00 s", "0.20 s", "0.40 s"]
    assert rows[3].views[0].text == "gray; green; blue"
    assert rows[5].views[0].text == "red square left of the blue circle"
    for shown in rows[:5]:
        for _, picture in shown.views[0].pictures:
            assert picture.width >= 64 and picture.mode == "RGB"
    assert [shown.n_media for shown in rows] == [16, 3 * 64 + 15, 69, 3, 1, 4]


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
@pytest.mark.parametrize("kind", ["hf_vision", "open_clip"])
def test_the_picture_is_the_fitted_one(kind: str, fit: str, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    processor = clip_like(folder, fit) if kind == "hf_vision" else open_clip_like(fit)
    colours = numpy.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=numpy.uint8)
    exact = Image.fromarray(colours)
    # of the model's own size: nothing is resized, so each pixel comes back as it was
    side = processor.size[0]
    given = exact.resize((side, side), Image.Resampling.NEAREST)
    shown = denormalised(processor, processor.read(given)["pixels"])
    assert numpy.abs(numpy.asarray(shown).astype(int) - numpy.asarray(given).astype(int)).max() <= 1
    wide = Image.new("RGB", (2 * side, side), "red")
    wide.paste("blue", (0, 0, side // 2, side))
    wide.paste("blue", (3 * side // 2, 0, 2 * side, side))
    seen = numpy.asarray(denormalised(processor, processor.read(wide)["pixels"])).astype(int)
    middle, left, top = seen[side // 2, side // 2], seen[side // 2, 2], seen[2, side // 2]
    assert tuple(middle) == (255, 0, 0)
    assert (left[2] > 200) == (fit != "crop")
    assert (tuple(top) == (255, 0, 0)) == (fit != "pad")


def clip_like(folder: Path, fit: str) -> ImageProcessor:
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    transform = HfTransform(CLIPImageProcessor.from_pretrained(folder), (32, 32), fit, own_size=True)
    return ImageProcessor(transform, size=(32, 32), patch=(8, 8))


def open_clip_like(fit: str) -> ImageProcessor:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from mmllm.encoders.image.open_clip import RESIZE_MODES

    config = PreprocessCfg(size=32, resize_mode=RESIZE_MODES[fit])
    return ImageProcessor(image_transform_v2(config, is_train=False), size=(32, 32), patch=(8, 8))


def test_colours_that_cannot_be_undone_are_not_shown() -> None:
    processor = ImageProcessor(
        lambda image: (torch.from_numpy(numpy.array(image)).permute(2, 0, 1) / 255.0) ** 2, size=(8, 8), patch=(8, 8)
    )
    with pytest.raises(MediaError, match="cannot be undone"):
        denormalised(processor, torch.zeros(3, 8, 8))


def test_what_is_wrong_with_a_row_is_said(tmp_path: Path) -> None:
    rows = [row("w " * 700), row(image="gone.png"), row(), {"messages": [{"role": "user", "content": "alone"}]}]
    made = recipe(tmp_path, rows, keys=("image",))
    dataset = registry.load("datasets", "chat_jsonl")(path=f"{tmp_path}/chat.jsonl")
    long, gone, good, alone = (shown_row(dataset, number, reading_of(made)) for number in range(4))
    assert long.problem == f"{long.n_tokens:,} tokens are over the context of 512; nothing is cut" and long.pieces
    assert gone.problem is not None and "gone.png does not exist" in gone.problem and not gone.pieces
    assert gone.messages[1].text == "red"
    assert good.problem is None
    assert alone.problem is not None and "no message of the assistant" in alone.problem


class Lengths(Processor):
    """Any file as one number for each of its first bytes."""

    modality = "document"

    def read(self, media: Path) -> Item:
        return {"bytes": torch.tensor(list(media.read_bytes()[:5]))}

    def grid(self, info: ItemInfo) -> tuple[int]:
        return (len(info["bytes"]),)

    def blank(self) -> Item:
        return {"bytes": torch.zeros(1)}


class Own(Encoder):
    """An encoder that this package does not know."""

    def __init__(self, *, width: int = 8) -> None:
        super().__init__(layers=(-1,))
        self.dim, self.processor = width, Lengths()


def test_an_encoder_of_another_package_is_made_and_its_tensors_described(tmp_path: Path) -> None:
    write_media(tmp_path)
    made = recipe(tmp_path, [row(document="document.txt")], keys=("document",))
    own = made.encoders["document"].model_copy(update={"type": f"{Own.__module__}:Own", "args": {"width": 4}})
    mlp = made.connectors["document"].model_copy(update={"type": "mlp", "args": {}})
    made = made.model_copy(update={"encoders": {"document": own}, "connectors": {"document": mlp}})
    report = inspect(made)
    assert report.notes[0].startswith("encoders.document: its weights were loaded")
    (view,) = report.entries[0].rows[0].views
    assert view.facts.startswith("tensors bytes (5,)") and view.title == "<document> 1: 5 places"
    wrong = own.model_copy(update={"args": {"widht": 4}})
    (note,) = inspect(made.model_copy(update={"encoders": {"document": wrong}})).notes
    assert note.startswith("Not looked at: <document>") and "cannot be made from {'widht': 4}" in note


def test_two_encoders_of_one_picture_are_shown_apart(tmp_path: Path) -> None:
    write_media(tmp_path)
    made = recipe(tmp_path, [row(image="image.png")], keys=("image",))
    vit = made.encoders["image"].model_copy(
        update={"type": "hf_vision", "args": {"model": f"{MINI}/vit", "layers": [-1]}}
    )
    both = made.connectors["image"].model_copy(update={"type": "concat", "source": ("clip", "vit"), "args": {}})
    made = made.model_copy(
        update={"encoders": {"clip": made.encoders["image"], "vit": vit}, "connectors": {"image": both}}
    )
    one, other = inspect(made).entries[0].rows[0].views
    assert one.title == "<image> 1 for encoders.clip: 64 places" and other.title.startswith(
        "<image> 1 for encoders.vit"
    )
    assert one.pictures[0][1].size == other.pictures[0][1].size == (64, 64)


def test_items_inside_a_table_are_shown_and_compared(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    write_media(tmp_path)
    made = recipe(tmp_path, [row()], keys=("image", "audio"))
    image, sound = ((tmp_path / name).read_bytes() for name in ("image.png", "audio.wav"))
    cells = [{"bytes": image, "path": None}, None, {"bytes": image, "path": None}]
    sounds = [None, {"bytes": sound, "path": None}, None]
    table = {"question": ["what?"] * 3, "answer": ["red"] * 3, "image": cells, "audio": sounds}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "rows.parquet")
    data = made.data["rows"].model_copy(update={"type": "chat", "args": {"path": f"{tmp_path}/rows.parquet"}})
    (entry,) = inspect(made.model_copy(update={"data": {"rows": data}})).entries
    assert "3 rows, questions and answers" in entry.summary
    assert [shown.problem for shown in entry.rows] == [None] * 3
    assert entry.rows[0].views[0].pictures[0][1].size == (64, 64)
    assert entry.rows[1].views[0].facts.startswith("1.38 s at 16,000 Hz")
    assert entry.survey.duplicates.groups == ((entry.rows[0].name, entry.rows[2].name),)


def test_boxes_are_shown_as_training_rewrites_them(tmp_path: Path) -> None:
    Image.new("RGB", (100, 50), "red").save(tmp_path / "image.png")
    made = recipe(tmp_path, [row("[0.00, 0.25, 1.00, 0.75]", image="image.png")], keys=("image",))
    rows = made.data["rows"]
    boxes = rows.model_copy(update={"args": {**rows.args, "boxes": {"from": "xyxy_1", "square": "pad"}}})
    said = []
    for entry in (rows, boxes):
        (shown,) = inspect(made.model_copy(update={"data": {"rows": entry}})).entries[0].rows
        said.append("".join(piece.text for piece in shown.pieces if piece.learned))
    # of a picture twice as wide as high, padded to a square by the other tool, squashed to one here
    assert said == ["[0.00, 0.25, 1.00, 0.75]<|end|>", "[0.000,0.000,1.000,1.000]<|end|>"]
