"""Writes the tasks of the claims to ``runs/claims/data/<task>``: train.jsonl, test/<task>.jsonl and their pictures."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.claims.clips import write_lm
from benchmarks.claims.lesson import Lesson
from benchmarks.claims.lessons import MAKERS
from benchmarks.claims.lessons_clips import CLIPS

DATA = Path("runs/claims/data")
TRAIN, TEST = 3000, 200
VERSION = 2
"""To be raised when lessons change, so that what is written is written anew."""


def write_task(task: str, out: Path = DATA, train: int = TRAIN, test: int = TEST) -> Path:
    """The folder of one task, written unless it is complete; the same arguments give the same files.

    ``train.jsonl`` and, where the task has groups, ``train.<group>.jsonl`` are conversations for ``chat_jsonl``;
    ``test/<task>.jsonl`` holds one question a line, from the held-out combinations. ``complete`` is written last: a
    digest of all of it, which is part of every run's key.
    """
    folder, made = out / task, {"version": VERSION, "train": train, "test": test}
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{task}.lock").open("w") as lock:  # workers may want the same task at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        complete = folder / "complete"
        if not complete.is_file() or json.loads(complete.read_text())["made"] != made:
            shutil.rmtree(folder, ignore_errors=True)
            total = _write_files(task, folder, train, test)
            complete.write_text(json.dumps({"made": made, "sha256": total.hexdigest()}) + "\n")
    return folder


def _write_files(task: str, folder: Path, train: int, test: int) -> Any:
    """All files but the last; sha256 over them."""
    (folder / "images").mkdir(parents=True)
    (folder / "test" / "images").mkdir(parents=True)
    total = hashlib.sha256()
    rng = Random(f"claims/{task}/train")
    groups: dict[str, list[dict[str, Any]]] = {"": []}
    for number in range(train):
        lesson = MAKERS[task](rng, False)
        row = {"messages": _messages(lesson)} | _picture(lesson, folder, number, total)
        groups[""].append(row)
        if lesson.group:
            groups.setdefault(lesson.group, []).append(row)
    for group, rows in groups.items():
        _write(folder / (f"train.{group}.jsonl" if group else "train.jsonl"), rows, total)
    rng = Random(f"claims/{task}/test")
    rows = [_question(MAKERS[task](rng, True), folder / "test", number, total) for number in range(test)]
    _write(folder / "test" / f"{task}.jsonl", rows, total)
    if task in CLIPS:
        write_lm(folder / "lm")
    return total


def write_tuning(task: str, out: Path = DATA, n: int = TEST) -> Path:
    """The file of ``n`` further held-out questions that learning rates are chosen by, written unless it is there."""
    folder = out / task / "tuning"
    file = folder / f"{task}.jsonl"
    if not file.is_file():
        (folder / "images").mkdir(parents=True, exist_ok=True)
        rng, total = Random(f"claims/{task}/tuning"), hashlib.sha256()
        rows = [_question(MAKERS[task](rng, True), folder, number, total) for number in range(n)]
        new = folder / f"new-{os.getpid()}"  # workers may want the same file at the same time
        _write(new, rows, total)
        new.rename(file)
    return file


def digest_of(task: str, out: Path = DATA) -> str:
    """sha256 over all files of a task that is written."""
    return str(json.loads((out / task / "complete").read_text())["sha256"])


def _messages(lesson: Lesson) -> list[dict[str, str]]:
    messages = []
    shown = lesson.image is not None or lesson.file is not None
    before = f"<{lesson.modality}>" if shown else lesson.before
    for index, ask in enumerate(lesson.asks):
        question = f"{before}\n{ask.question}" if before and not index else ask.question
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": ask.answer})
    return messages


def _question(lesson: Lesson, folder: Path, number: int, total: Any) -> dict[str, Any]:
    ask = lesson.asks[0]
    question = f"{lesson.before}\n{ask.question}" if lesson.before else ask.question
    row = {"id": f"{number:05d}", "question": question, "answers": [ask.answer], "kind": ask.kind}
    files = {key: paths[0] for key, paths in _picture(lesson, folder, number, total).items()}
    return row | ({"box": list(ask.box)} if ask.box else {}) | {"image": ""} | files


def _picture(lesson: Lesson, folder: Path, number: int, total: Any) -> dict[str, list[str]]:
    if lesson.file is not None:
        ending, content = lesson.file
        file = f"images/{number:05d}{ending}"
        (folder / file).write_bytes(content)
        total.update(content)
        return {lesson.modality: [file]}
    if lesson.image is None:
        return {}
    file = f"images/{number:05d}.png"
    lesson.image.save(folder / file, compress_level=1)
    total.update(lesson.image.tobytes())
    return {"image": [file]}


def _write(path: Path, rows: Sequence[dict[str, Any]], total: Any) -> None:
    content = "".join(json.dumps(row) + "\n" for row in rows)
    total.update(content.encode())
    path.write_text(content, encoding="utf-8")
