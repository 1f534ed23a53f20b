"""Tiny published sets of clips and sounds: rows in the columns of each set's own files."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any


def sound() -> dict[str, Any]:
    """A tenth of a second of silence as the hub's tables hold it."""
    import wave

    buffer = BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", "not compressed"))
        file.writeframes(bytes(3_200))
    return {"bytes": buffer.getvalue(), "path": "a.wav"}


def _video_mme() -> dict[str, list[dict[str, Any]]]:
    row = {"video_id": "001", "duration": "short", "videoID": "abc", "task_type": "Counting", "question": "How many?"}
    options = ["A. one.", "B. two.", "C. three.", "D. four."]
    return {
        "videomme/test-00000-of-00001.parquet": [
            {**row, "question_id": f"001-{n}", "options": options, "answer": letter} for n, letter in enumerate("BD")
        ]
    }


def _egoschema() -> dict[str, list[dict[str, Any]]]:
    option = [f"{letter}. C does {text}" for letter, text in zip("ABCDE", "vwxyz", strict=True)]
    return {
        "Subset/test-00000-of-00001.parquet": [
            {"question_idx": str(n), "question": "What?", "video_idx": "abc", "option": option, "answer": str(n)}
            for n in (0, 4)
        ]
    }


def _perception() -> dict[str, list[dict[str, Any]]]:
    row = {"video_name": "video_1", "question": "What moved?", "options": ["cup", "pen", "none"], "area": "physics"}
    return {
        "mc_question_val/validation-00000-of-00001.parquet": [
            {**row, "question_id": f"{n}", "answer_id": f"{n}", "reasoning": "descriptive", "tag": ["motion"]}
            for n in (1, 2)
        ]
    }


def _longvideobench() -> dict[str, list[dict[str, Any]]]:
    row = {"video_id": "abc", "video_path": "abc.mp4", "question": "Where?", "option0": "in", "option1": "out"}
    more = {f"option{n}": "N/A" for n in (2, 3, 4)} | {"duration_group": 15, "question_category": "S2E"}
    return {
        "validation-00000-of-00001.parquet": [{**row, **more, "id": f"abc_{n}", "correct_choice": n} for n in (0, 1)]
    }


def _tgif() -> dict[str, list[dict[str, Any]]]:
    row = {"gif_name": "tumblr_a", "question": "What does it do ?"} | {f"a{n}": f"move {n}" for n in range(1, 6)}
    return {"Test_action_question.csv": [{**row, "answer": n, "vid_id": "ACTION1", "key": n} for n in (0, 4)]}


def _mmau() -> dict[str, list[dict[str, Any]]]:
    row = {"audio": sound(), "question": "What is heard?", "choices": json.dumps(["rain", "wind"]), "task": "sound"}
    return {
        "data/test_mini-00000-of-00001.parquet": [
            {"id": f"{n}", **row, "answer": text, "difficulty": "easy"} for n, text in enumerate(("wind", "rain"))
        ]
    }


def _air_bench() -> dict[str, list[dict[str, Any]]]:
    row = {"question": "Who speaks?", "choice_a": "a man", "choice_b": "a woman", "choice_c": None, "choice_d": None}
    more = {"task_name": "Speaker_Gender_Recognition", "dataset_name": "meld", "audio": sound()}
    return {
        "Foundation/speech-00000-of-00001.parquet": [
            {"uniq_id": n, **row, **more, "answer_gt": text} for n, text in enumerate(("a woman", "a man"))
        ]
    }


def _vocalsound() -> dict[str, list[dict[str, Any]]]:
    return {
        "data/test-00000-of-00001.parquet": [
            {"audio": sound(), "answer": name, "spk_id": "f1"} for name in ("Laughter", "Throat clearing")
        ]
    }


def _librispeech() -> dict[str, list[dict[str, Any]]]:
    return {
        "clean/test-00000-of-00001.parquet": [
            {"id": f"1-2-000{n}", "audio": sound(), "text": text} for n, text in enumerate(("IT'S HE", "TWO OF THEM"))
        ]
    }


TIMED: dict[str, Callable[[], dict[str, list[dict[str, Any]]]]] = {
    "video_mme": _video_mme,
    "egoschema": _egoschema,
    "perception_test": _perception,
    "longvideobench": _longvideobench,
    "tgif_qa": _tgif,
    "mmau": _mmau,
    "air_bench": _air_bench,
    "vocalsound": _vocalsound,
    "librispeech": _librispeech,
}
"""Name of a set -> what writes its rows."""
