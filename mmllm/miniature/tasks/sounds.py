"""Writes the miniature data of sounds: clips of four seconds as WAV files, conversations and questions about them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.random import Generator

from mmllm.miniature.tasks.rows import write_rows
from mmllm.miniature.world.sounds import RATE, clip, fact_held_out
from mmllm.miniature.world.words import PITCHES, SOUNDS, TIMES

MOST = 4
"""Sounds in one clip, at most: as many as the LM knows from text."""

Fact = tuple[str, str, str]


def write_sound(out: Path, train: int, test: int, seed: int) -> None:
    """``instruct.jsonl`` with ``train`` conversations, ``test/mini_sound.jsonl`` with ``test`` questions, a clip each.

    Test clips consist of (time, manner, sound) that no training clip has. ``complete`` is written last.
    """
    (out / "complete").unlink(missing_ok=True)
    rng = np.random.default_rng((seed, 0))
    rows: list[dict[str, object]] = []
    for number in range(train):
        facts = _facts(rng, held_out=False)
        file = _clip(rng, out, f"media/{number:06d}.wav", facts)
        asked = _asks(rng, facts)
        messages = []
        for index, (question, answer, _) in enumerate(asked):
            shown = f"<audio>\n{question}" if not index else question
            messages += [{"role": "user", "content": shown}, {"role": "assistant", "content": answer}]
        rows.append({"id": f"sound_{number:06d}", "messages": messages, "audio": [file]})
    write_rows(out / "instruct.jsonl", rows)
    rng, rows = np.random.default_rng((seed, 1)), []
    for number in range(test):
        facts = _facts(rng, held_out=True)
        file = _clip(rng, out / "test", f"media/{number:06d}.wav", facts)
        question, answer, kind = _asks(rng, facts)[0]
        identity = f"mini_sound_{number:05d}"
        rows.append({"id": identity, "audio": file, "question": question, "answers": [answer], "kind": kind})
    write_rows(out / "test" / "mini_sound.jsonl", rows)
    made = {"train": train, "test": test, "seed": seed}
    (out / "complete").write_text(json.dumps(made) + "\n", encoding="utf-8")


def _facts(rng: Generator, held_out: bool) -> tuple[Fact, ...]:
    """One to four sounds at different times, in order, all of the wanted split."""
    times = sorted(map(str, rng.choice(TIMES, int(rng.integers(1, MOST + 1)), replace=False)))
    facts = []
    for time in times:
        while True:
            manner, sound = str(rng.choice(PITCHES)), str(rng.choice(SOUNDS))
            if fact_held_out(time, manner, sound) == held_out:
                break
        facts.append((time, manner, sound))
    return tuple(facts)


def _asks(rng: Generator, facts: Sequence[Fact]) -> list[tuple[str, str, str]]:
    """(question, answer, kind) in a random order: each time, and each sound that is heard once."""
    heard = [sound for _, _, sound in facts]
    asks = [(f"what is heard at {time}?", f"{manner} {sound}", "sound") for time, manner, sound in facts]
    asks += [(f"where is the {sound}?", time, "time") for time, _, sound in facts if heard.count(sound) == 1]
    return [asks[index] for index in rng.permutation(len(asks))]


def _clip(rng: Generator, folder: Path, file: str, facts: tuple[Fact, ...]) -> str:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / file, clip(rng, facts), RATE, subtype="PCM_16")
    return file
