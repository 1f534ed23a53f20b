"""Tiny miniature benchmarks: a file of two or three questions about one small item of its modality."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mmllm.evaluation.benchmarks.mini import Mini
from mmllm.evaluation.benchmarks.mini_digits import MiniDigits
from mmllm.evaluation.benchmarks.mini_documents import MiniDocuments
from mmllm.evaluation.benchmarks.mini_graph import MiniGraph
from mmllm.evaluation.benchmarks.mini_grounding import MiniGrounding
from mmllm.evaluation.benchmarks.mini_points import MiniPoints
from mmllm.evaluation.benchmarks.mini_recall import MiniRecall
from mmllm.evaluation.benchmarks.mini_scenes import MiniScenes
from mmllm.evaluation.benchmarks.mini_sound import MiniSound
from mmllm.evaluation.benchmarks.mini_together import SENSES, MiniTogether
from mmllm.evaluation.benchmarks.mini_video import MiniVideo

Kind = TypeVar("Kind", bound=Mini)
Row = Mapping[str, Any]
"""Question and answers of one line."""
SHAPES: tuple[Row, ...] = (
    {"question": "what color is the shape?", "answers": ["red"]},
    {"question": "how many shapes?", "answers": ["1"]},
    {"question": "is there a star?", "answers": ["no"]},
)


def picture(folder: Path) -> str:
    """A red square: writes it and gives its name."""
    from PIL import Image

    Image.new("RGB", (32, 32), "red").save(folder / "0.png")
    return "0.png"


def mini(kind: type[Kind], folder: Path, item: Callable[[Path], str] = picture, rows: Sequence[Row] = SHAPES) -> Kind:
    """A benchmark of the class ``kind``: ``item`` writes one media item into a folder and gives its name."""
    test = folder / "test"
    test.mkdir(parents=True)
    name = item(test)
    lines = [{"id": str(number), kind.modality: name, "kind": "tiny", **row} for number, row in enumerate(rows)]
    _write(test / f"{kind.name}.jsonl", lines)
    return kind(path=str(folder))


def together(folder: Path) -> MiniTogether:
    """Three questions about three files without content."""
    test = folder / "test"
    test.mkdir(parents=True)
    media = {"image": "0.png", "video": "0.mp4", "audio": "0.wav"}
    for name in media.values():
        (test / name).touch()
    lines = [
        {"id": str(number), **media, "kind": f"{key}: tiny", **row}
        for number, (key, row) in enumerate(zip(SENSES, SHAPES, strict=True))
    ]
    _write(test / f"{MiniTogether.name}.jsonl", lines)
    return MiniTogether(path=str(folder))


def buzz(folder: Path) -> str:
    """A tenth of a second of a buzz."""
    with wave.open(str(folder / "0.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"\x00\x10\x00\xf0" * 400)
    return "0.wav"


def no_clip(folder: Path) -> str:
    """Some bytes under the name of an mp4 file: asking does not open it."""
    (folder / "0.mp4").write_bytes(b"no video")
    return "0.mp4"


def graph(folder: Path) -> str:
    """Three nodes, the first of which is asked about."""
    written = {"nodes": ["n1 physics", "n2 art", "n3 physics"], "edges": [[0, 1], [0, 2]], "target": 0}
    (folder / "0.json").write_text(json.dumps(written), encoding="utf-8")
    return "0.json"


def tetrahedron(folder: Path) -> str:
    """Four points of a tetrahedron."""
    (folder / "0.xyz").write_text("0 0 0\n1 0 0\n0 1 0\n0 0 1\n", encoding="utf-8")
    return "0.xyz"


def document(folder: Path) -> str:
    """A document of three facts."""
    (folder / "0.txt").write_text("tea red, milk 3, oslo star", encoding="utf-8")
    return "0.txt"


def _asked(*pairs: tuple[str, str]) -> tuple[Row, ...]:
    return tuple({"question": question, "answers": [answer]} for question, answer in pairs)


def _write(file: Path, lines: Sequence[Row]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


BOXES = tuple(
    {"question": f"box of shape {number}?", "answers": [str(box).replace(" ", "")], "box": box}
    for number, box in enumerate(([0, 0, 50, 50], [25, 25, 49, 49], [60, 10, 90, 35]))
)
SOUNDS = _asked(("what is heard at t1?", "low horn"), ("where is the horn?", "t1"))
TOPICS = _asked(("what is the topic of n1?", "physics"), ("what is linked to n1?", "n2"))
SOLIDS = _asked(("what shape is it?", "triangle"), ("is it a circle?", "no"))
FACTS = _asked(("tea?", "red"), ("oslo?", "star"))
TINY: dict[str, Callable[[Path], Mini]] = {
    "mini_scenes": partial(mini, MiniScenes),
    "mini_digits": partial(mini, MiniDigits),
    "mini_documents": partial(mini, MiniDocuments),
    "mini_grounding": partial(mini, MiniGrounding, rows=BOXES),
    "mini_sound": partial(mini, MiniSound, item=buzz, rows=SOUNDS),
    "mini_video": partial(mini, MiniVideo, item=no_clip),
    "mini_points": partial(mini, MiniPoints, item=tetrahedron, rows=SOLIDS),
    "mini_recall": partial(mini, MiniRecall, item=document, rows=FACTS),
    "mini_graph": partial(mini, MiniGraph, item=graph, rows=TOPICS),
    "mini_together": together,
}
"""Registry name -> writes it into an empty folder and opens it."""
