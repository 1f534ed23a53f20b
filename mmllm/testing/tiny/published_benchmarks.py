"""Tiny published sets: each writes two or more questions in the columns of its set's own files and opens it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from mmllm import registry
from mmllm.evaluation.benchmarks.base import Benchmark
from mmllm.testing.tiny.published_timed import TIMED

Row = Mapping[str, Any]
TEN = ["blue"] * 10
"""What ten annotators say."""


def png(colour: str = "blue") -> dict[str, Any]:
    """A picture of 40 x 20 pixels as the hub's tables hold it."""
    from PIL import Image

    buffer = BytesIO()
    Image.new("RGB", (40, 20), colour).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_table(file: Path, rows: Sequence[Row]) -> None:
    """Rows as Parquet, JSON, or cells behind commas or tabs, by the file's ending (``.csv`` has tabs, as TGIF-QA's)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(list(rows)), encoding="utf-8")
    else:
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)


def opened(name: str, folder: Path) -> Benchmark:
    """Write the tables of a set and the files they name, and open it."""
    for file, rows in tables(name).items():
        write_table(folder / file, rows)
    for file in FILES.get(name, ()):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png()["bytes"])
    found: Benchmark = registry.load("benchmarks", name)(path=str(folder))
    return found


def tables(name: str) -> dict[str, list[dict[str, Any]]]:
    """File -> its rows, made anew."""
    return WRITERS[name]()


FILES: dict[str, Sequence[str]] = {
    "ref_l4": ("images/a.jpg",),
    "video_mme": ("data/abc.mp4",),
    "egoschema": ("videos/abc.mp4",),
    "perception_test": ("videos/video_1.mp4",),
    "longvideobench": ("videos/abc.mp4",),
    "tgif_qa": ("gifs/tumblr_a.gif",),
}
"""Name of a set -> files that its rows name."""


def _annotated() -> dict[str, list[dict[str, Any]]]:
    asked = {"image": png(), "question": "What colour is it?", "answers": TEN}
    return {
        "data/val-00000-of-00001.parquet": [
            {"question_id": f"VizWiz_val_{number}.jpg", **asked, "category": kind}
            for number, kind in enumerate(("other", "unanswerable"))
        ]
    }


def _okvqa() -> dict[str, list[dict[str, Any]]]:
    asked = {"image": png(), "question": "What sky is this?", "answers": TEN, "answer_type": "other"}
    return {
        "data/val2014-00000-of-00001.parquet": [
            {"question_id": str(number), **asked, "question_type": "eight"} for number in (17, 18)
        ]
    }


def _infographic() -> dict[str, list[dict[str, Any]]]:
    asked = {"question": "How much?", "answers": ["40 %", "40%"], "answer_type": ["single span"], "image": png()}
    return {
        "InfographicVQA/validation-00000-of-00001.parquet": [
            {"questionId": str(number), **asked, "ocr": "{}", "data_split": "val"} for number in (1, 2)
        ]
    }


def _ocrbench() -> dict[str, list[dict[str, Any]]]:
    rows = [
        ("IIIT5K", "Regular Text Recognition", "What is written in the image?", ["CENTRE"]),
        ("HME100k", "Handwritten Mathematical Expression Recognition", "Write the formula.", [r"x ^ { 2 }"]),
    ]
    fields = ("dataset", "question_type", "question", "answer")
    return {
        "data/test-00000-of-00001.parquet": [dict(zip(fields, row, strict=True)) | {"image": png()} for row in rows]
    }


def _realworldqa() -> dict[str, list[dict[str, Any]]]:
    end = "\nPlease answer directly with only the letter of the correct option and nothing else."
    return {
        "data/test-00000-of-00001.parquet": [
            {"question": f"Where is it?\nA. left\nB. right{end}", "answer": "B", "image": png()},
            {"question": "How many are there?", "answer": "3", "image": png()},
        ]
    }


def _mmmu() -> dict[str, list[dict[str, Any]]]:
    pictures = {f"image_{number}": None for number in range(1, 8)}
    rows = [
        ("validation_Accounting_1", "<image 1> Which is like <image 2>?", "['<image 3>', '5 %']", "A", 3),
        ("validation_Music_2", "Which note is it?", "['c', 'd']", "B", 1),
        ("validation_Math_3", "How long is x in <image 1>?", "[]", "['8.5', '8 1/2']", 1),
    ]
    return {
        "data/validation-00000-of-00001.parquet": [
            {
                **{"id": identity, "question": question, "options": options, "answer": answer, **pictures},
                **{f"image_{number}": png(colour) for number, colour in enumerate(("red", "green", "blue")[:n], 1)},
                "question_type": "open" if options == "[]" else "multiple-choice",
            }
            for identity, question, options, answer, n in rows
        ]
    }


def _mmmu_pro() -> dict[str, list[dict[str, Any]]]:
    row = {"options": "['one', 'two', 'three']", "subject": "History"}
    asked = {"question": "How many <image 1>?", "image_1": png()}
    return {
        "standard (10 options)/test-00000-of-00001.parquet": [
            {"id": f"test_History_{n}", **row, **asked, "answer": letter} for n, letter in enumerate("AC")
        ],
        "vision/test-00000-of-00001.parquet": [
            {"id": f"test_History_{n}", **row, "image": png(), "answer": letter} for n, letter in enumerate("AC")
        ],
    }


def _mathvista() -> dict[str, list[dict[str, Any]]]:
    task = {"metadata": {"task": "figure question answering", "category": "general-vqa"}}
    rows = [
        ("text", ["12 cm", "13 cm"], "13 cm", None),
        ("integer", None, "1203", None),
        ("float", None, "1.5", 1.0),
        ("list", None, "[1, 2]", None),
    ]
    return {
        "data/testmini-00000-of-00001.parquet": [
            {
                **{"pid": str(number), "question": "How long?", "decoded_image": png(), "choices": choices},
                **{"answer": answer, "answer_type": kind, "precision": precision, **task},
                "query": "Hint: ...\nQuestion: How long?" + ("\nChoices:\n(A) 12 cm\n(B) 13 cm" if choices else ""),
            }
            for number, (kind, choices, answer, precision) in enumerate(rows, 1)
        ]
    }


def _gqa() -> dict[str, list[dict[str, Any]]]:
    rows = [("20", "n1", "What is it?", "car"), ("21", "n1", "Is it red?", "no")]
    fields = ("id", "imageId", "question", "answer")
    return {
        "testdev_balanced_instructions/testdev-00000-of-00001.parquet": [
            dict(zip(fields, row, strict=True)) | {"isBalanced": True} for row in rows
        ],
        "testdev_balanced_images/testdev-00000-of-00001.parquet": [{"id": "n1", "image": png()}],
    }


def _ai2d() -> dict[str, list[dict[str, Any]]]:
    options = ["1", "2", "3", "4"]  # numbers, so that an index taken for a text is seen
    return {
        "data/test-00000-of-00001.parquet": [
            {"question": "Which stage is it?", "options": options, "answer": answer, "image": png()}
            for answer in ("2", "0")
        ]
    }


def _scienceqa() -> dict[str, list[dict[str, Any]]]:
    row = {"image": png(), "question": "Which is it?", "choices": ["solid", "gas"], "subject": "natural science"}
    return {
        "ScienceQA-IMG/test-00000-of-00001.parquet": [
            {**row, "answer": 1, "hint": "It floats.", "topic": "physics"},
            {**row, "answer": 0, "hint": "", "topic": "chemistry"},
        ]
    }


def _mmstar() -> dict[str, list[dict[str, Any]]]:
    row = {"question": "What is it?\nOptions: A: a cat, B: a dog, C: a car, D: a bus", "image": png()}
    more = {"category": "coarse perception", "l2_category": "image scene & topic", "meta_info": {"source": "MMBench"}}
    return {"mmstar.parquet": [{"index": n, **row, "answer": letter, **more} for n, letter in enumerate("AD")]}


def _seed() -> dict[str, list[dict[str, Any]]]:
    row = {"choice_a": "one", "choice_b": "two", "choice_c": "three", "choice_d": "four", "question": "How many?"}
    return {
        "data/test-00000-of-00001.parquet": [
            {**row, "question_id": f"{n}", "answer": "C", "data_type": kind, "question_type_id": 5, "image": shown}
            for n, kind, shown in ((1, "image", [png()]), (2, "video", [png(), png()]), (3, "image", [png()]))
        ]
    }


def _cv_bench() -> dict[str, list[dict[str, Any]]]:
    prompt = "Which is nearer?\nSelect from the following choices.\n(A) the car\n(B) the bus"
    row = {"image": png(), "question": "Which is nearer?", "choices": ["the car", "the bus"], "prompt": prompt}
    return {
        f"test_{kind.lower()}.parquet": [
            {"idx": n, "type": kind, "task": task, **row, "answer": "(B)", "source": source} for n, task, source in rows
        ]
        for kind, rows in {
            "2D": [(0, "Count", "ADE20K"), (1, "Relation", "COCO"), (2, "Count", "COCO")],
            "3D": [(3, "Depth", "Omni3D")],
        }.items()
    }


def _mmbench() -> dict[str, list[dict[str, Any]]]:
    more = {"category": "color", "L2-category": "finegrained", "image": png(), "hint": "nan", "question": "Which?"}
    rolls = [(7, "blue", "red", "A"), (1_000_007, "red", "blue", "B"), (8, "red", "blue", "B")]
    return {
        "en/dev-00000-of-00001.parquet": [
            {"index": index, "A": a, "B": b, "C": None, "D": "nan", "answer": answer, **more}
            for index, a, b, answer in rolls
        ]
    }


def _pope() -> dict[str, list[dict[str, Any]]]:
    return {
        "data/test-00000-of-00001.parquet": [
            {"question_id": "1", "question": "Is there a dog?", "answer": answer, "category": kind, "image": png()}
            for answer, kind in (("yes", "random"), ("no", "random"), ("yes", "adversarial"), ("no", "adversarial"))
        ]
    }


def _mme() -> dict[str, list[dict[str, Any]]]:
    end = " Please answer yes or no."
    return {
        "data/test-00000-of-00001.parquet": [
            {"question_id": f"color/{n}.jpg", "image": png(), "question": text + end, "answer": a, "category": "color"}
            for n in (1, 2)
            for text, a in (("Is it blue?", "Yes"), ("Is it red?", "No"))
        ]
    }


def _hallusion() -> dict[str, list[dict[str, Any]]]:
    fields = ("category", "subcategory", "set_id", "figure_id", "question_id", "gt_answer")
    rows = [
        ("VD", "figure", "0", "1", "0", "1"),
        ("VD", "figure", "0", "1", "1", "0"),
        ("VS", "map", "0", "0", "0", "0"),
    ]
    return {
        "data/image-00000-of-00001.parquet": [
            dict(zip(fields, row, strict=True)) | {"question": "Is it so?", "image": png()} for row in rows
        ]
    }


def _refcoco(split: str) -> dict[str, list[dict[str, Any]]]:
    row = {
        "image": png(),
        "question": "Describe it.",
        "answer": ["left one", "the red"],
        "bbox": [10.0, 5.0, 20.0, 10.0],
    }
    return {f"data/{split}-00000-of-00001.parquet": [{"question_id": "1", **row, "file_name": "COCO_1.jpg"}]}


def _ref_l4() -> dict[str, list[dict[str, Any]]]:
    row = {"caption": "the blue box on the left", "height": 20, "width": 40, "file_name": "a.jpg"}
    return {"ref-l4-test.parquet": [{"id": n, **row, "bbox": [0.0, 0.0, 20.0, high]} for n, high in ((1, 20), (2, 10))]}


def _coco() -> dict[str, list[dict[str, Any]]]:
    texts = (["A man rides a horse.", "a man on a brown horse"], ["Two dogs run.", "two dogs are running in snow"])
    return {
        "data/val-00000-of-00001.parquet": [
            {"question_id": f"{n}.jpg", "image": png(), "answer": listed, "id": n} for n, listed in enumerate(texts)
        ]
    }


def _nocaps() -> dict[str, list[dict[str, Any]]]:
    rows = next(iter(_coco().values()))
    return {
        "data/validation-00000-of-00001.parquet": [
            {"image_id": row["id"], "image": row["image"], "annotations_captions": row["answer"]} for row in rows
        ]
    }


WRITERS: dict[str, Callable[[], dict[str, list[dict[str, Any]]]]] = {
    "vizwiz": _annotated,
    "okvqa": _okvqa,
    "infographicvqa": _infographic,
    "ocrbench": _ocrbench,
    "realworldqa": _realworldqa,
    "gqa": _gqa,
    "ai2d": _ai2d,
    "scienceqa": _scienceqa,
    "mmstar": _mmstar,
    "seed_bench": _seed,
    "cv_bench": _cv_bench,
    "mmbench": _mmbench,
    "mmmu": _mmmu,
    "mmmu_pro": _mmmu_pro,
    "mathvista": _mathvista,
    "pope": _pope,
    "mme": _mme,
    "hallusion_bench": _hallusion,
    "refcoco": partial(_refcoco, "testA"),
    "refcoco_plus": partial(_refcoco, "testA"),
    "refcocog": partial(_refcoco, "test"),
    "ref_l4": _ref_l4,
    "coco_captions": _coco,
    "nocaps": _nocaps,
    **TIMED,
}
"""Name of a set -> its tables."""
TINY: dict[str, Callable[[Path], Benchmark]] = {name: partial(opened, name) for name in WRITERS}
