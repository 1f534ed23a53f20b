"""A recipe of every modality on the miniature parts, with a few rows of data: what the tests of inspection look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy

from mmllm.recipe.load import parse
from mmllm.recipe.models import Recipe
from mmllm.testing.tiny import encoders as tiny
from tests.support.places import ROOT

MINI = ROOT / "data/mini"
ENCODERS = {
    "image": {"type": "open_clip", "model": f"{MINI}/clip", "layers": [-1]},
    "video": {
        "type": "frames", "image": {"type": "hf_vision", "model": f"{MINI}/vit", "layers": [-1]},
        "frames": 3, "fps": 5.0, "backend": "pyav",
    },
    "audio": {"type": "hf_audio", "model": f"{MINI}/audio", "layers": [-1]},
    "graph": {"type": "text_graph", "model": f"{MINI}/lm", "layers": [1], "pool": "mean", "fanout": [8, 2]},
    "points": {"type": "points", "model": f"{MINI}/clip", "points": 256, "tokens": 32},
    "document": {"type": "document", "model": f"{MINI}/lm", "blocks": 2, "max_tokens": 128},
}  # fmt: skip
CONNECTORS = {
    "image": {"type": "pool", "from": "image", "grid": [4, 4]},
    "video": {"type": "mlp", "from": "video", "times": "{s:.1f}s "},
    "audio": {"type": "mlp", "from": "audio"},
    "graph": {"type": "mlp", "from": "graph"},
    "points": {"type": "any2point", "from": "points", "width": 12},
    "document": {"type": "text_memory", "from": "document", "slots": 4},
}
ENDINGS = {"image": "png", "video": "mp4", "audio": "wav", "graph": "json", "points": "npy", "document": "txt"}


def write_media(folder: Path) -> None:
    """One file of each modality, named after it."""
    tiny.pictures()[2].save(folder / "image.png")
    (folder / "video.mp4").write_bytes(tiny.clips()[0])
    (folder / "audio.wav").write_bytes(tiny.sounds()[1])
    (folder / "graph.json").write_bytes(tiny.graphs()[1])
    numpy.save(folder / "points.npy", tiny.clouds()[0].numpy())
    (folder / "document.txt").write_text("red square left of the blue circle")


def row(said: str = "red", asked: str = "what is here?", **media: str) -> dict[str, Any]:
    """A row of messages, media in front of the question."""
    marks = "".join(f"<{key}>\n" for key in media)
    messages = [{"role": "user", "content": f"{marks}{asked}"}, {"role": "assistant", "content": said}]
    return {"messages": messages, **{key: [name] for key, name in media.items()}}


def recipe(folder: Path, rows: list[dict[str, Any]], keys: tuple[str, ...] = tuple(ENCODERS), **llm: Any) -> Recipe:
    """The recipe of these modalities on data of these rows, which are written to ``folder``."""
    (folder / "chat.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    written = {
        "name": "senses",
        "llm": {"path": f"{MINI}/lm", "dtype": "float32", "context": 512, **llm},
        "encoders": {key: ENCODERS[key] for key in keys},
        "connectors": {**{key: CONNECTORS[key] for key in keys}, "lora": {"type": "lora"}},
        "data": {"rows": {"type": "chat_jsonl", "path": f"{folder}/chat.jsonl"}},
        "stages": {"learn": {"train": {"connectors.lora": 0.001}, "data": {"rows": 1.0}, "steps": 1, "batch": 1}},
    }
    return parse(json.dumps(written))
