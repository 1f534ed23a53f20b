"""Boxes of other tools' data where the recipe's encoder sees them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from mmllm.datasets.boxes import FITS, FORMS, Boxes
from mmllm.datasets.chat import Chat
from mmllm.errors import MmllmError, RecipeError, SampleError
from mmllm.evaluation.metrics.boxes import iou, parse_box
from mmllm.processors.image import centre, square_canvas
from mmllm.recipe.dataset_arguments import dataset_arguments
from mmllm.recipe.load import parse
from mmllm.types import Message

WIDE, TALL = (640, 480), (300, 500)
BOX = (100, 150, 220, 300)
"""Pixels, inside the centre of both pictures."""


def written(form: str, size: tuple[int, int], square: str) -> str:
    """BOX as the data of one tool write it."""
    (w, h), (x1, y1, x2, y2) = size, BOX
    if form == "xywh_pixels":
        return f"[{x1}, {y1}, {x2 - x1}, {y2 - y1}]"
    if form == "xyxy_pixels":
        return f'{{"bbox_2d": [{x1}, {y1}, {x2}, {y2}]}}'
    side = max(size)
    wide, high = (side, side) if square == "pad" else size
    left, top = (wide - w) // 2, (high - h) // 2
    a, b, c, d = (x1 + left) / wide, (y1 + top) / high, (x2 + left) / wide, (y2 + top) / high
    if form == "loc_tokens":
        return "".join(f"<loc{round(1024 * value):04}>" for value in (b, a, d, c)) + " sign"
    if form == "xyxy_1000":
        return f"<box>({round(1000 * a)},{round(1000 * b)}),({round(1000 * c)},{round(1000 * d)})</box>"
    return f"[{a:.4f}, {b:.4f}, {c:.4f}, {d:.4f}]"


def in_view(size: tuple[int, int], fit: str) -> tuple[float, float, float, float]:
    """Where BOX is in the pixels that an encoder of 100 x 100 gets: painted, fitted, found again."""
    image = Image.new("L", size)
    image.paste(255, BOX)
    if fit == "pad":
        image = square_canvas(image.convert("RGB"), (100, 100), (0, 0, 0)).convert("L")
    elif fit == "crop":
        image = centre(image, (100, 100))
    found = image.point(lambda value: 255 if value > 127 else 0).getbbox()
    assert found is not None
    return found[0] / image.width, found[1] / image.height, found[2] / image.width, found[3] / image.height


@pytest.mark.parametrize("size", [WIDE, TALL])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("form", "square"), [*((form, "none") for form in FORMS), ("xyxy_1", "pad")])
def test_every_form_lands_where_the_encoder_sees_it(form: str, square: str, fit: str, size: tuple[int, int]) -> None:
    out = io.BytesIO()
    Image.new("RGB", size).save(out, "PNG")
    message = Message("assistant", written(form, size, square))
    (moved,) = Boxes(form, square, fit).rewrite([message], {"image": [out.getvalue()]})
    box = parse_box(moved.text)
    assert box is not None and iou(box, in_view(size, fit)) > 0.97
    (tokens,) = Boxes(form, square, fit, to="loc_tokens").rewrite([message], {"image": [out.getvalue()]})
    again = parse_box(tokens.text, 1000)  # tokens say their own scale
    assert "<loc" in tokens.text and again is not None and iou(again, box) > 0.97


def test_a_word_that_no_row_is_written_in_shows_at_the_start(tmp_path: Path) -> None:
    Image.new("RGB", WIDE).save(tmp_path / "a.png")
    rows = [
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}], "image": "a.png"}
        for said in (written("loc_tokens", WIDE, "none"), "No box.")
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sees = {form: Chat(str(tmp_path / "a.jsonl"), boxes={"from": form}).summary for form in ("loc_tokens", "xyxy_1")}
    assert sees["loc_tokens"].endswith("; 1 of the first 2 with boxes (loc_tokens)")
    assert sees["xyxy_1"].endswith("; none of the first 2 with boxes (xyxy_1)")


def test_left_alone_llavas_boxes_would_shift() -> None:
    box = parse_box(written("xyxy_1", WIDE, "pad"))
    assert box is not None and iou(box, in_view(WIDE, "squash")) < 0.75


def test_a_turned_photograph_counts_as_it_is_seen(tmp_path: Path) -> None:
    image = Image.new("RGB", (480, 640))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    (moved,) = Boxes("xywh_pixels").rewrite([Message("user", "[64, 48, 64, 48]")], {"image": [tmp_path / "a.jpg"]})
    assert moved.text == "[0.100,0.100,0.200,0.200]"


def test_texts_around_stay_and_other_lists_too() -> None:
    out = io.BytesIO()
    Image.new("RGB", (100, 100)).save(out, "PNG")
    box, moved = "[100, 200, 300, 400]", "[0.100,0.200,0.300,0.400]"
    for text, seen in (
        (
            f"<ref>cat</ref><box>[{box}]</box> and [1, 2, 3], at (1, 2)",
            f"<ref>cat</ref>{moved} and [1, 2, 3], at (1, 2)",
        ),
        (f"<box>[{box}, {box}]</box>", f"{moved}, {moved}"),
        ("Here: <|box_start|>(100,200),(300,400)<|box_end|> .", f"Here: {moved} ."),
        (
            f'A cat at {box} sits. [{{"bbox_2d": {box}, "label": "cat"}}]',
            f'A cat at {moved} sits. [{{"bbox_2d": {moved}, "label": "cat"}}]',
        ),
        (f"[{box}, {box}]", f"[{moved}, {moved}]"),
        ("[1e2, 200., 300, 400]", moved),
    ):
        (found,) = Boxes("xyxy_1000").rewrite([Message("user", text)], {"image": [out.getvalue()]})
        assert found.text == seen


def test_what_cannot_be_placed_is_a_bad_sample() -> None:
    out = io.BytesIO()
    Image.new("RGB", (100, 100)).save(out, "PNG")
    for media in ({}, {"image": [out.getvalue()] * 2}):
        with pytest.raises(SampleError, match=f"boxes beside {2 if media else 0} media"):
            Boxes("xyxy_1").rewrite([Message("user", "[0.1,0.1,0.2,0.2]")], media)
    for form, text, sentence in (
        ("xyxy_1", "[0.4, 0.4, 0.2, 0.2]", "has no area in what the encoder sees"),
        ("xyxy_1", "[120, 30, 400, 80]", "is not inside its picture of 100 x 100"),
        ("xyxy_pixels", "[100, 250, 500, 750]", "is not inside its picture of 100 x 100"),
        ("xywh_pixels", "[60, 10, 80, 20]", "is not inside its picture of 100 x 100"),
        ("xyxy_1000", "[0.1, 0.2, 0.3, 0.4]", "is in fractions"),
        ("xyxy_1000", "<box><100><200><300><400></box>", "is no box that is known"),
    ):
        with pytest.raises(SampleError, match=sentence):
            Boxes(form).rewrite([Message("user", text)], {"image": [out.getvalue()]})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({}, 'boxes.from: "None" is unknown; known: xyxy_1, xyxy_1000'),
        ({"from": "xyxy_1", "square": "yes"}, 'boxes.square: "yes" is unknown; known: none, pad'),
        ({"from": "xyxy_1", "form": "x"}, "boxes: unknown word 'form'; known: from, to, square, fit"),
    ],
)
def test_wrong_words(words: dict[str, str], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        Boxes.of(words)


RECIPE = """
llm: {path: lm}
encoders:
  image: {type: open_clip, model: ViT-B-32, layers: [-2], fit: FIT}
  page: {type: hf_vision, model: vit, layers: [-2], fit: pad}
connectors: {image: {type: pool, from: image, grid: [2, 2]}, page: {type: pool, from: page, grid: [2, 2]}}
data: {some: {type: chat, path: a.jsonl, boxes: {from: xyxy_1, square: pad}}}
stages: {one: {train: {connectors.image: 1.0e-3}, data: {some: 1.0}, steps: 1, batch: 1}}
"""


def test_the_recipes_own_fit(tmp_path: Path) -> None:
    args = dataset_arguments(parse(RECIPE.replace("FIT", "pad")), "some")
    assert args["boxes"] == {"from": "xyxy_1", "square": "pad", "fit": "pad"}
    with pytest.raises(RecipeError, match=r"fit pictures differently \(encoders.image crop, encoders.page pad\)"):
        dataset_arguments(parse(RECIPE.replace("FIT", "crop")), "some")
    Image.new("RGB", WIDE).save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": written("xyxy_1", WIDE, "pad")}]
    (tmp_path / "a.json").write_text(json.dumps([{"image": "a.png", "conversations": turns}]))
    (sample,) = list(Chat(str(tmp_path / "a.json"), boxes=args["boxes"]))
    box = parse_box(sample.messages[1].text)
    assert box is not None and iou(box, in_view(WIDE, "pad")) > 0.98
