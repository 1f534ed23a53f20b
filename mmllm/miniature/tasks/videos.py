"""Writes the miniature clips: mp4 files, captions.jsonl and instruct.jsonl for training, held-out questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

from mmllm.miniature.tasks.rows import conversation, write_rows
from mmllm.miniature.world.described import Ask
from mmllm.miniature.world.videos import KINDS, Actor, about_video, actors, draw_clip
from mmllm.processors.decoding.video_writing import mp4

DESCRIBE = "describe the image."
QUALITY = 14
TEST_KINDS = {"first": 2, "last": 2, "when": 3, "from": 1, "end": 3, "motion": 2, "count": 1, "at": 2}
"""Kind -> its share of the test's questions: most of them need the order of things."""


def write_video(out: Path, train: int, test: int, seed: int) -> None:
    """``train`` clips with a caption and a conversation each, ``test`` questions about a clip each; ``complete`` last.

    The same arguments give the same pictures and words; the bytes of the mp4 files may differ with x264's version.
    """
    complete = out / "complete"
    complete.unlink(missing_ok=True)
    _train(out, train, seed)
    _test(out / "test", test, seed)
    complete.write_text(json.dumps({"train": train, "test": test, "seed": seed}) + "\n", encoding="utf-8")


def _cast(rng: Random, held_out: bool) -> tuple[Actor, ...]:
    """One to three actors, mostly more than one."""
    return actors(rng, rng.choices((1, 2, 3), (1, 3, 3))[0], held_out)


def _draw(rng: Random, cast: Sequence[Actor], path: Path) -> None:
    """Write the clip of a cast."""
    path.write_bytes(mp4(*draw_clip(rng, cast), QUALITY))


def _train(out: Path, n: int, seed: int) -> None:
    rng, captions, instruct = Random(f"video/train/{seed}"), [], []
    (out / "media").mkdir(parents=True, exist_ok=True)
    for index in range(n):
        name = f"media/{index:06d}.mp4"
        cast = _cast(rng, held_out=False)
        described = about_video(rng, cast, len(KINDS))
        _draw(rng, cast, out / name)
        told = (Ask("describe", DESCRIBE, described.caption),)
        captions.append({"id": f"caption_{index:06d}", "messages": conversation(told, "<video>"), "video": [name]})
        instruct.append(
            {"id": f"instruct_{index:06d}", "messages": conversation(described.asks, "<video>"), "video": [name]}
        )
    write_rows(out / "captions.jsonl", captions)
    write_rows(out / "instruct.jsonl", instruct)


def _test(out: Path, n: int, seed: int) -> None:
    rng, lines = Random(f"video/test/{seed}"), []
    (out / "media").mkdir(parents=True, exist_ok=True)
    for index in range(n):
        name, kind = f"media/{index:05d}.mp4", rng.choices(list(TEST_KINDS), list(TEST_KINDS.values()))[0]
        ask: Ask | None = None
        cast: tuple[Actor, ...] = ()
        while ask is None:
            cast = _cast(rng, held_out=True)
            ask = next((ask for ask in about_video(rng, cast, len(KINDS)).asks if ask.kind == kind), None)
        _draw(rng, cast, out / name)
        line = {"id": f"video_{index:05d}", "video": name, "question": ask.question, "answers": [ask.answer]}
        lines.append(line | {"kind": kind})
    write_rows(out / "mini_video.jsonl", lines)
