"""Pictures, clips and sounds of the miniature worlds in one conversation; written for recipes/mini/two_senses.yaml.

It joins what `python -m mmllm.miniature data`, `sense video` and `sense sound` wrote beside it, so splits stay apart.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmllm.errors import MmllmError
from mmllm.miniature.tasks.rows import write_rows

WORLDS = {"image": "world", "video": "video", "audio": "sound"}
"""Modality -> folder of its miniature data, beside the one that is written."""
TESTS = {"image": "mini_scenes", "video": "mini_video", "audio": "mini_sound"}
TURNS = 2
"""Questions about each item of a training conversation."""


def write_together(out: Path, train: int, test: int, seed: int) -> None:
    """``instruct.jsonl``: conversations that show all three, at the start or one after the other, in any order.
    ``test/mini_together.jsonl``: a picture, a clip and a sound each, and a question about one of them.

    Raises MmllmError where one of the three is not there.
    """
    home = out.parent
    draw = random.Random(seed)
    rows = {key: _rows(home / world / "instruct.jsonl") for key, world in WORLDS.items()}
    rows["image"] = [row for row in rows["image"] if "scene" in row["id"]]
    (out / "test").mkdir(parents=True, exist_ok=True)
    made = [_conversation(number, rows, draw) for number in range(train)]
    write_rows(out / "instruct.jsonl", made)
    asked = {key: _rows(home / world / "test" / f"{TESTS[key]}.jsonl") for key, world in WORLDS.items()}
    write_rows(out / "test" / "mini_together.jsonl", [_question(number, asked, draw) for number in range(test)])
    (out / "complete").write_text(f"train {train} test {test} seed {seed}\n", encoding="utf-8")


def _conversation(number: int, rows: Mapping[str, list[dict[str, Any]]], draw: random.Random) -> dict[str, Any]:
    """One item of each modality with some of its questions; media paths start at the folder above."""
    chosen = {key: draw.choice(rows[key]) for key in draw.sample(sorted(WORLDS), len(WORLDS))}
    pairs = {key: _pairs(key, row, draw) for key, row in chosen.items()}
    if draw.random() < 0.5:  # all three shown first, then asked about in any order
        turns = [pair for some in pairs.values() for pair in some]
        draw.shuffle(turns)
        turns[0] = ("".join(f"<{key}>" for key in WORLDS) + "\n" + turns[0][0], turns[0][1])
    else:
        turns = [
            (f"<{key}>\n{asked}" if first == 0 else asked, answer)
            for key, some in pairs.items()
            for first, (asked, answer) in enumerate(some)
        ]
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    media = {key: f"{WORLDS[key]}/{_only(row[key])}" for key, row in chosen.items()}
    return {"id": f"together_{number:06d}", "messages": messages, **media}


def _pairs(key: str, row: Mapping[str, Any], draw: random.Random) -> list[tuple[str, str]]:
    """Some questions of a row with their answers, without its placeholder."""
    texts = [message["content"].removeprefix(f"<{key}>\n") for message in row["messages"]]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    short = [pair for pair in pairs if not pair[1].startswith("[")]  # no boxes
    return draw.sample(short or pairs, min(TURNS, len(short or pairs)))


def _question(number: int, asked: Mapping[str, list[dict[str, Any]]], draw: random.Random) -> dict[str, Any]:
    """A question about the modality of this number, beside two other items; paths start at the test file."""
    chosen = {key: draw.choice(asked[key]) for key in WORLDS}
    about = list(WORLDS)[number % len(WORLDS)]
    media = {key: f"../../{WORLDS[key]}/test/{row[key]}" for key, row in chosen.items()}
    row = chosen[about]
    return {
        "id": f"mini_together_{number:05d}",
        **media,
        "question": row["question"],
        "answers": row["answers"],
        "kind": f"{about}: {row['kind']}",
    }


def _only(field: str | list[str]) -> str:
    """The one item of a media field."""
    return field if isinstance(field, str) else field[0]


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise MmllmError(
            f"{path} is missing: write the miniature data first (`python -m mmllm.miniature data`, "
            "`python -m mmllm.miniature sense video`, `python -m mmllm.miniature sense sound`)."
        )
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
