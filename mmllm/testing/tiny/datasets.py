"""Tiny datasets: each writes a few samples in its own format, media included, into a folder and opens them."""

from __future__ import annotations

import base64
import csv
import io
import json
import pickle
import struct
import wave
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from mmllm.datasets.base import Dataset
from mmllm.datasets.chat import Chat
from mmllm.datasets.easy_vqa import EasyVqa
from mmllm.datasets.fsdd import Fsdd
from mmllm.datasets.grounded_text import GroundedText
from mmllm.datasets.modelnet import ModelNet
from mmllm.datasets.msrvtt_qa import MsrvttQa
from mmllm.datasets.msvd_qa import MsvdQa
from mmllm.datasets.nextqa import FIELDS, MAP, NextQa
from mmllm.datasets.planetoid import Planetoid
from mmllm.datasets.text_attributed_graph import HEADS, TextAttributedGraph

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC")
"""A PNG file of one black pixel."""
COLOURED_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""A PNG file of one pixel, half transparent green."""


def chat(folder: Path) -> Chat:
    """Three lines: one image, two turns of text, two images in parts."""
    (folder / "pixel.png").write_bytes(PIXEL)
    answer = {"role": "assistant", "content": "A pixel."}
    words = [{"role": "user", "content": "Say it."}, answer, {"role": "user", "content": "Again."}, answer]
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Are they the same?"}]
    rows = [
        {"messages": [{"role": "user", "content": "<image>\nWhat is it?"}, answer], "image": "pixel.png"},
        {"messages": words},
        {"messages": [{"role": "user", "content": parts}, answer], "image": ["pixel.png", "pixel.png"]},
    ]
    path = folder / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Chat(str(path))


def easy_vqa(folder: Path) -> EasyVqa:
    """Two questions about one picture of one pixel."""
    images = folder / "train" / "images"
    images.mkdir(parents=True)
    (images / "0.png").write_bytes(COLOURED_PIXEL)
    rows = [["what color is the shape?", "blue", 0], ["is there a circle?", "no", 0]]
    (folder / "train" / "questions.json").write_text(json.dumps(rows), encoding="utf-8")
    return EasyVqa(str(folder))


def fsdd(folder: Path) -> Fsdd:
    """Four recordings of two speakers, of which two are for training."""
    write_fsdd(folder)
    return Fsdd(str(folder))


def write_fsdd(folder: Path) -> None:
    """Four recordings of a tenth of a second: takes 0 and 5 of two speakers."""
    (folder / "recordings").mkdir(parents=True)
    for digit, speaker, take in ((3, "anna", 0), (3, "anna", 5), (7, "ben", 0), (7, "ben", 5)):
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(struct.pack("<800h", *(3000 * ((n // digit) % 2) for n in range(800))))
        (folder / "recordings" / f"{digit}_{speaker}_{take}.wav").write_bytes(buffer.getvalue())


def grounded_text(folder: Path) -> GroundedText:
    """One form of two entities, the second the answer to the first."""
    forms = folder / "training_data"
    for name in ("annotations", "images"):
        (forms / name).mkdir(parents=True)
    form = [
        {"id": n, "label": label, "text": text, "linking": [[0, 1]], "box": [0, 0, 1, 1], "words": []}
        for n, (label, text) in enumerate((("question", "TO:"), ("answer", "K. A.")))
    ]
    (forms / "annotations" / "a.json").write_text(json.dumps({"form": form}), encoding="utf-8")
    (forms / "images" / "a.png").write_bytes(PIXEL)
    return GroundedText(str(folder))


def msvd_qa(folder: Path) -> MsvdQa:
    """Two questions about two clips without content."""
    write_video_qa(folder, "train", MsvdQa.stem, "YouTubeClips", "youtube_mapping.txt")
    return MsvdQa(str(folder))


def msrvtt_qa(folder: Path) -> MsrvttQa:
    """Two questions about two clips without content."""
    write_video_qa(folder, "train", MsrvttQa.stem, "TrainValVideo", None)
    return MsrvttQa(str(folder))


def write_video_qa(folder: Path, split: str, stem: str, videos: str, mapping: str | None) -> None:
    """Write ``<split>_qa.json`` with a question about each of the videos 1 and 2, and their files, without content."""
    rows = [
        {"id": 5, "video_id": 1, "question": "what is a man doing?", "answer": "run"},
        {"id": 6, "video_id": 2, "question": "who is cooking?", "answer": "woman"},
    ]
    (folder / videos).mkdir(parents=True)
    (folder / f"{split}_qa.json").write_text(json.dumps(rows), encoding="utf-8")
    names = {f"{stem}{number}": f"{stem}{number}" if mapping is None else f"-4w.uPC_{number}_9" for number in (1, 2)}
    for name in names.values():
        (folder / videos / f"{name}.mp4").touch()
    if mapping is not None:
        lines = "".join(f"{name} {video}\n" for video, name in names.items())
        (folder / mapping).write_text(lines, encoding="utf-8")


def nextqa(folder: Path) -> NextQa:
    """Three questions about two clips without content."""
    write_nextqa(folder, "train")
    return NextQa(str(folder))


def write_nextqa(folder: Path, split: str) -> None:
    """Write ``<split>.csv`` with three questions about two videos, their map and files without content."""
    rows = [
        ("4010069381", "how do the two men play", "2", "6", "CH", "roll", "tap", "strum the string", "hit", "pat"),
        ("4010069381", "what did he do after sitting down", "0", "8", "TN", "clap", "lie", "crawl", "run", "wave"),
        ("2925959064", "where is this place", "4", "1", "DL", "mall", "river", "pool", "living room", "mountain"),
    ]
    videos = folder / "NExTVideo" / "1164"
    videos.mkdir(parents=True)
    with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([FIELDS, *rows])
    names = {video: f"1164/{video[::-1]}" for video in ("4010069381", "2925959064")}
    (folder / MAP).write_text(json.dumps(names), encoding="utf-8")
    for name in names.values():
        (folder / "NExTVideo" / f"{name}.mp4").touch()


def modelnet(folder: Path) -> ModelNet:
    """Two classes, two tetrahedra and a square."""
    write_modelnet(folder, "train")
    return ModelNet(str(folder))


def write_modelnet(folder: Path, split: str) -> None:
    """Two classes in ModelNet's layout, one in files whose header runs into the counts, as some of ModelNet's do."""
    corners = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
    faces = "3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"
    for kind, name, text in (
        ("tetrahedron", "a.off", f"OFF\n4 4 6\n{corners}{faces}"),
        ("tetrahedron", "b.off", f"OFF4 4 6\n{corners}{faces}"),
        ("night_stand", "c.xyz", "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"),
    ):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
        (folder / kind / split / name).write_text(text, encoding="utf-8")


def planetoid(folder: Path) -> Planetoid:
    """Five papers of two classes."""
    write_planetoid(folder)
    return Planetoid(str(folder), name="tiny")


def write_planetoid(folder: Path) -> None:
    """Files of a data set called tiny: five papers, a chain; three of them for training, two for the test."""
    import numpy
    from scipy.sparse import csr_matrix

    words = numpy.eye(5, 6, dtype=numpy.float32)
    hot = numpy.eye(2, dtype=numpy.int32)[[0, 1, 0, 1, 0]]
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "y": hot[:2], "allx": csr_matrix(words[:3]), "ally": hot[:3],
        "tx": csr_matrix(words[[4, 3]]), "ty": hot[[4, 3]],
        "graph": defaultdict(list, {0: [1], 1: [0, 2], 2: [1, 3], 3: [2, 4], 4: [3]}),
    }  # fmt: skip
    for part, value in parts.items():
        (folder / f"ind.tiny.{part}").write_bytes(pickle.dumps(value, protocol=3))
    (folder / "ind.tiny.test.index").write_text("4\n3\n")


def text_attributed_graph(folder: Path) -> TextAttributedGraph:
    """Five papers of two classes."""
    write_text_attributed_graph(folder)
    return TextAttributedGraph(str(folder))


def write_text_attributed_graph(folder: Path) -> None:
    """Tables of five papers, a chain: two for training, one for validation, two for the test."""
    tables = {
        "raw/titles": [["tea"], ["milk, cold"], ["bread"], ["rice"], ["soup"]],
        "raw/edges": [[str(node), str(node + 1)] for node in range(4)],
        "raw/labels": [["cs.LG"], ["cs.CV"], ["cs.LG"], ["cs.CV"], ["cs.LG"]],
        "split/train": [["0"], ["1"]],
        "split/valid": [["2"]],
        "split/test": [["3"], ["4"]],
    }
    for table, rows in tables.items():
        file = folder / f"{table}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8", newline="") as opened:
            csv.writer(opened).writerows([list(HEADS[table]), *rows])


TINY: dict[str, Callable[[Path], Dataset]] = {
    "chat": chat,
    "chat_jsonl": chat,
    "easy_vqa": easy_vqa,
    "fsdd": fsdd,
    "grounded_text": grounded_text,
    "msvd_qa": msvd_qa,
    "msrvtt_qa": msrvtt_qa,
    "nextqa": nextqa,
    "modelnet": modelnet,
    "planetoid": planetoid,
    "text_attributed_graph": text_attributed_graph,
}
"""Registry name -> writes it into an existing, empty folder and opens it."""
