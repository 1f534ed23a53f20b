"""Conversations about texts and where they stand: from forms and receipts in their published files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmllm.datasets.grounded_text import TASKS, GroundedText
from mmllm.errors import MmllmError, SampleError
from mmllm.evaluation.metrics.boxes import iou, parse_box

LINES = """10,20,110,20,110,40,10,40,BOOK "TA", SDN BHD
10,50,60,50,60,60,10,60,NO. 53
10,70,80,70,80,80,10,80,81100 JOHOR
150,90,190,90,190,100,150,100,9.00
"""


def receipts(folder: Path) -> Path:
    for name in ("box", "key", "img"):
        (folder / name).mkdir(parents=True)
    (folder / "box" / "0.csv").write_text(LINES)
    key = {"company": 'BOOK "TA", SDN BHD', "address": "NO. 53, 81100 JOHOR.", "total": "9.00", "date": "1/2/2018"}
    (folder / "key" / "0.json").write_text(json.dumps(key))
    Image.new("RGB", (200, 100), "white").save(folder / "img" / "0.jpg")
    return folder


def turns(data: GroundedText, index: int) -> list[tuple[str, str]]:
    texts = [message.text for message in data[index].messages]
    return list(zip(texts[0::2], texts[1::2], strict=True))


def test_texts_have_their_boxes(tmp_path: Path) -> None:
    data = GroundedText(str(receipts(tmp_path)))
    assert len(data) == 4 and data[0].name.endswith(":0/detection") and data[0].media["image"][0].name == "0.jpg"
    where, written, spotted, asked = (turns(data, index) for index in range(4))
    places = dict(where)
    assert places['Where is "9.00"?'] == "[0.750,0.900,0.950,1.000]" or where[0][0].startswith("<image>\nWhere is")
    assert len(where) == len(written) == 4 and all(parse_box(answer) for _, answer in where)
    assert all(parse_box(question) and answer in LINES for question, answer in written)
    assert spotted[0][1].splitlines()[0] == 'BOOK "TA", SDN BHD [0.050,0.200,0.550,0.400]'
    said = {question.removeprefix("<image>\n"): answer for question, answer in asked}
    # the company is one line, the address two; the date stands nowhere, so it is not asked
    assert said == {
        "What is the company? Answer with its box.": 'BOOK "TA", SDN BHD [0.050,0.200,0.550,0.400]',
        "What is the address? Answer with its box.": "NO. 53, 81100 JOHOR. [0.050,0.500,0.400,0.800]",
        "What is the total? Answer with its box.": "9.00 [0.750,0.900,0.950,1.000]",
    }
    # padded to a square the page is in its middle
    padded = turns(GroundedText(str(tmp_path), tasks=["spotting"], fit="pad"), 0)[0][1].splitlines()[0]
    assert padded.endswith("[0.050,0.350,0.550,0.450]")


def test_the_same_questions_without_boxes(tmp_path: Path) -> None:
    data = GroundedText(str(receipts(tmp_path)), boxes=False)
    assert len(data) == 3 and all("detection" not in data[index].name for index in range(3))
    assert {answer for _, answer in turns(data, 2)} == {'BOOK "TA", SDN BHD', "NO. 53, 81100 JOHOR.", "9.00"}


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(MmllmError, match=r"there is no .*training_data \(FUNSD\) and no .*box \(SROIE\)"):
        GroundedText(str(tmp_path))
    with pytest.raises(MmllmError, match=r"tasks: 'reading'; known: detection, recognition, spotting, qa"):
        GroundedText(str(receipts(tmp_path)), tasks=["reading"])
    (tmp_path / "img" / "0.jpg").write_bytes(b"no picture")
    with pytest.raises(SampleError, match=r"0/detection: the picture that boxes count in cannot be read"):
        GroundedText(str(tmp_path))[0]
    (tmp_path / "box" / "0.csv").write_text("1,2,3,hello\n")
    with pytest.raises(MmllmError, match=r"0\.csv: a line is no eight numbers and a text"):
        GroundedText(str(tmp_path))


@pytest.mark.skipif("MMLLM_TEST_DATA" not in os.environ, reason="needs the folder MMLLM_TEST_DATA")
@pytest.mark.parametrize(("name", "more"), [("sroie", {}), ("funsd", {}), ("funsd", {"split": "test"})])
def test_real_pages(name: str, more: dict[str, Any]) -> None:
    path = f"{os.environ['MMLLM_TEST_DATA']}/{name}"
    data = GroundedText(path, **more)
    assert {data[index].name.rsplit("/")[-1] for index in range(len(data))} == set(TASKS)
    boxes = [
        box for index in range(len(data)) for _, said in turns(data, index) for box in re.findall(r"\[.*?\]", said)
    ]
    read = [box for text in boxes if (box := parse_box(text)) is not None]
    assert len(read) > 150 and all(0 <= min(box) and max(box) <= 1 and iou(box, box) == 1 for box in read)
