"""Tiny benchmarks: each writes a few questions in the data set's own form into an empty folder and opens it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmllm.evaluation.benchmarks.base import Benchmark
from mmllm.evaluation.benchmarks.chartqa import ChartQa
from mmllm.evaluation.benchmarks.clotho_aqa import COLUMNS, ClothoAqa
from mmllm.evaluation.benchmarks.documents import Funsd, Sroie
from mmllm.evaluation.benchmarks.docvqa import DocVqa
from mmllm.evaluation.benchmarks.easy_vqa import EasyVqa
from mmllm.evaluation.benchmarks.fsdd import Fsdd
from mmllm.evaluation.benchmarks.modelnet import ModelNet
from mmllm.evaluation.benchmarks.msrvtt_qa import MsrvttQa
from mmllm.evaluation.benchmarks.msvd_qa import MsvdQa
from mmllm.evaluation.benchmarks.mvbench import TASKS, MvBench
from mmllm.evaluation.benchmarks.nextqa import NextQa
from mmllm.evaluation.benchmarks.node_classification import NodeClassification
from mmllm.evaluation.benchmarks.qa import Qa, QaJson
from mmllm.evaluation.benchmarks.textvqa import TextVqa
from mmllm.evaluation.benchmarks.vqav2 import VqaV2
from mmllm.testing.tiny import datasets, mini_benchmarks, published_benchmarks


def easy_vqa(folder: Path) -> EasyVqa:
    """Two questions about one picture."""
    picture(folder / "test" / "images" / "0.png", (64, 64), "blue")
    rows = [["what color is the shape?", "blue", 0], ["is there a circle?", "no", 0]]
    (folder / "test" / "questions.json").write_text(json.dumps(rows), encoding="utf-8")
    return EasyVqa(path=str(folder))


def qa(folder: Path) -> Qa:
    """Two questions, the second about two pictures."""
    _questions(folder)
    return Qa(path=str(folder))


def qa_json(folder: Path) -> QaJson:
    """The same."""
    _questions(folder)
    return QaJson(path=str(folder))


def _questions(folder: Path) -> None:
    picture(folder / "pictures" / "0.png", (64, 64), "blue")
    rows = [
        {"question": "What colour is it?", "answer": "blue", "image": "pictures/0.png", "kind": "colour"},
        {"id": "b", "question": "Are they the same?", "answers": ["yes"], "image": ["pictures/0.png"] * 2},
    ]
    (folder / "questions.json").write_text(json.dumps(rows), encoding="utf-8")


def sroie(folder: Path) -> Sroie:
    """Two receipts, the second without a date."""
    for name, fields in (("0", {"company": "A", "date": "1/2/2018", "total": "9.00"}), ("1", {"total": "$7.60"})):
        picture(folder / "img" / f"{name}.jpg", (40, 60), "white")
        _annotations(folder / "key" / f"{name}.json", fields)
    return Sroie(path=str(folder))


def funsd(folder: Path) -> Funsd:
    """Two forms: a question with an answer and one with two; and one without any."""
    texts = [("question", "TO:"), ("answer", "K. A."), ("question", "STORES"), ("answer", "27"), ("answer", "15")]
    links = {0: [[0, 1]], 1: [[0, 1]], 2: [[2, 3], [2, 4]], 3: [[2, 3]], 4: [[2, 4]]}
    form = [
        {"id": number, "label": label, "text": text, "linking": links[number], "box": [0, 0, 1, 1], "words": []}
        for number, (label, text) in enumerate(texts)
    ]
    for name, entities in (("a", form), ("b", [{**form[0], "linking": []}])):
        picture(folder / "testing_data" / "images" / f"{name}.png", (40, 60), "white")
        _annotations(folder / "testing_data" / "annotations" / f"{name}.json", {"form": entities})
    return Funsd(path=str(folder))


def _annotations(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def vqav2(folder: Path) -> VqaV2:
    """Two questions about one picture."""
    picture(folder / "val2014" / "COCO_val2014_000000000042.jpg", (40, 30), "green")
    asked = {
        420: ("What color is it?", ["green"] * 10, "other"),
        421: ("Is it red?", ["no"] * 9 + ["yes"], "yes/no"),
    }
    questions = [{"image_id": 42, "question_id": key, "question": value[0]} for key, value in asked.items()]
    annotations = [
        {
            "image_id": 42,
            "question_id": key,
            "answer_type": kind,
            "answers": [{"answer": text, "answer_id": number} for number, text in enumerate(answers, 1)],
        }
        for key, (_, answers, kind) in asked.items()
    ]
    contents = {"OpenEnded_mscoco_val2014_questions": questions, "mscoco_val2014_annotations": annotations}
    for part, rows in contents.items():
        content = {part.rsplit("_", 1)[1]: rows}
        (folder / f"v2_{part}.json").write_text(json.dumps(content), encoding="utf-8")
    return VqaV2(path=str(folder))


def textvqa(folder: Path) -> TextVqa:
    """Two questions about one picture."""
    picture(folder / "train_images" / "0a1b.jpg", (40, 30), "white")
    rows = [
        {"question_id": 1, "image_id": "0a1b", "question": "what brand is it?", "answers": ["dakota"] * 10},
        {"question_id": 2, "image_id": "0a1b", "question": "what year?", "answers": ["1998"] * 7 + ["98"] * 3},
    ]
    (folder / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": rows}), encoding="utf-8")
    return TextVqa(path=str(folder))


def docvqa(folder: Path) -> DocVqa:
    """Two questions about one page."""
    picture(folder / "documents" / "xnbl0037_1.png", (30, 40), "white")
    asked = (
        ("What is the date?", ["1/8/93", "January 8, 1993"], "form"),
        ("Who is it from?", ["P. Carter"], "layout"),
    )
    rows = [
        {
            "questionId": number,
            "question": text,
            "image": "documents/xnbl0037_1.png",
            "answers": answers,
            "question_types": [kind],
        }
        for number, (text, answers, kind) in enumerate(asked, 337)
    ]
    (folder / "val_v1.0_withQT.json").write_text(json.dumps({"data": rows}), encoding="utf-8")
    return DocVqa(path=str(folder))


def chartqa(folder: Path) -> ChartQa:
    """One question of each part about one chart."""
    picture(folder / "test" / "png" / "41699.png", (40, 30), "white")
    asked = (("human", "How many bars?", "3"), ("augmented", "What is the value in 2010?", "14.5"))
    for part, query, label in asked:
        rows = [{"imgname": "41699.png", "query": query, "label": label}]
        (folder / "test" / f"test_{part}.json").write_text(json.dumps(rows), encoding="utf-8")
    return ChartQa(path=str(folder))


def msvd_qa(folder: Path) -> MsvdQa:
    """Two questions about two clips without content."""
    datasets.write_video_qa(folder, "test", MsvdQa.stem, "YouTubeClips", "youtube_mapping.txt")
    return MsvdQa(path=str(folder))


def msrvtt_qa(folder: Path) -> MsrvttQa:
    """Two questions about two clips without content."""
    datasets.write_video_qa(folder, "test", MsrvttQa.stem, "TestVideo", None)
    return MsrvttQa(path=str(folder))


def nextqa(folder: Path) -> NextQa:
    """Three questions about two clips without content."""
    datasets.write_nextqa(folder, "val")
    return NextQa(path=str(folder))


def mvbench(folder: Path) -> MvBench:
    """One question of each task, about a clip without content; tasks that cut have bounds."""
    (folder / "json").mkdir(parents=True)
    for number, (task, videos) in enumerate(TASKS.items()):
        row: dict[str, Any] = {
            "video": "0.b.mp4",
            "question": f"What is number {number}?",
            "candidates": ["left", "right", "it is not said"],
            "answer": "right",
        }
        if task in ("action_sequence", "action_localization"):
            row |= {"start": 11.1, "end": 17.25}
        (folder / "json" / f"{task}.json").write_text(json.dumps([row]), encoding="utf-8")
        (folder / "video" / videos).mkdir(parents=True, exist_ok=True)
        (folder / "video" / videos / "0.b.mp4").touch()
    return MvBench(path=str(folder))


def fsdd(folder: Path) -> Fsdd:
    """Two recordings of take 0."""
    datasets.write_fsdd(folder)
    return Fsdd(path=str(folder))


def clotho_aqa(folder: Path) -> ClothoAqa:
    """Two questions about one sound, three answers each."""
    (folder / "audio_files").mkdir(parents=True)
    sound = mini_benchmarks.buzz(folder / "audio_files")
    rows = [
        (sound, "Is there rain?", "yes", "yes"), (sound, "Is there rain?", "no", "maybe"),
        (sound, "Is there rain?", "yes", "yes"), (sound, "What is heard, and where?", "rain", "yes"),
        (sound, "What is heard, and where?", "rain", "yes"), (sound, "What is heard, and where?", "rain", "yes"),
    ]  # fmt: skip
    with (folder / "clotho_aqa_test.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([(*COLUMNS, "confidence"), *rows])
    return ClothoAqa(path=str(folder))


def modelnet(folder: Path) -> ModelNet:
    """Three objects of two classes."""
    datasets.write_modelnet(folder, "test")
    return ModelNet(path=str(folder))


def node_classification(folder: Path) -> NodeClassification:
    """Two papers."""
    datasets.write_text_attributed_graph(folder)
    return NodeClassification(path=str(folder))


def picture(file: Path, size: tuple[int, int], colour: str) -> None:
    """A picture of one colour, (width, height), in a folder that is made."""
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


TINY: dict[str, Callable[[Path], Benchmark]] = {
    **mini_benchmarks.TINY,
    **published_benchmarks.TINY,
    "easy_vqa": easy_vqa,
    "qa": qa,
    "qa_json": qa_json,
    "sroie": sroie,
    "funsd": funsd,
    "vqav2": vqav2,
    "textvqa": textvqa,
    "docvqa": docvqa,
    "chartqa": chartqa,
    "msvd_qa": msvd_qa,
    "msrvtt_qa": msrvtt_qa,
    "nextqa": nextqa,
    "mvbench": mvbench,
    "fsdd": fsdd,
    "clotho_aqa": clotho_aqa,
    "modelnet": modelnet,
    "node_classification": node_classification,
}
"""Registry name -> writes it into an empty folder and opens it."""
FOLDER_IS_THE_DATA = ("modelnet", "fsdd")
"""Those whose questions are whatever files a folder holds, so that no single one of them is required."""
