"""Writes the demo's data: pictures, captions.jsonl and instruct.jsonl for training, four held-out test files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image

from mmllm.miniature.parts.lm_curriculum import matter_of
from mmllm.miniature.tasks.rows import conversation, write_rows
from mmllm.miniature.world.described import Ask, Described
from mmllm.miniature.world.documents import about_document, document
from mmllm.miniature.world.questions import SCENE_KINDS, about_large, about_scene
from mmllm.miniature.world.render import draw_digit, draw_document, draw_large, draw_scene, pick_digit
from mmllm.miniature.world.scenes import large, scene
from mmllm.miniature.world.splits import ink_held_out
from mmllm.miniature.world.text import digit, skill
from mmllm.miniature.world.words import COLOURS

DESCRIBE = "describe the image."
# Ninety-nine numbers and forty words are to be read off documents, so most pictures are documents, few questions each.
TRAIN_SORTS = {"scene": 0.23, "large": 0.04, "digit": 0.17, "document": 0.56}
TRAIN_TURNS = {"scene": (6, 10), "large": (5, 5), "digit": (3, 3), "document": (3, 5)}
TEXT_SORTS = ("sound", "graph", "recall", "scene", "document")
TEXT_SHARE = 0.06
# Few yes/no questions, or an answer without looking would already score high.
PARITY = 0.06
# The LM hardly knows parity, so training asks for it often.
TRAIN_PARITY = 0.6
TEST_KINDS = SCENE_KINDS | {"presence": 1.5, "relation": 0.4, "box": 0.0}
GROUNDING = {"box": 1.0}
TESTS = ("mini_scenes", "mini_digits", "mini_documents", "mini_grounding")


@dataclass(frozen=True)
class Shown:
    """A picture with what can be asked about it."""

    image: Image.Image
    described: Described


def show(rng: Random, sort: str, turns: int, held_out: bool, kinds: dict[str, float] | None = None) -> Shown:
    """One picture of a sort from the wanted split, with at most `turns` questions."""
    if sort == "scene":
        things = scene(rng, rng.randint(1, 6), held_out)
        return Shown(draw_scene(rng, things), about_scene(rng, things, turns, kinds=kinds))
    if sort == "large":
        thing = large(rng, held_out)
        return Shown(draw_large(rng, thing), about_large(rng, thing, turns))
    if sort == "digit":
        index, number = pick_digit(rng, held_out)
        colour = rng.choice([c for c in COLOURS if ink_held_out(number, c) == held_out])
        parity = PARITY if held_out else TRAIN_PARITY
        return Shown(draw_digit(rng, index, colour), digit(rng, number, min(turns, 3), parity))
    kind, rows = document(rng, held_out)
    return Shown(draw_document(rng, kind, rows), about_document(rng, kind, rows, turns))


def _text_line(rng: Random) -> list[dict[str, str]]:
    if rng.random() < 0.25:
        return conversation(skill(rng, 4), "")
    matter = matter_of(rng, rng.choice(TEXT_SORTS), 1.0, 6)
    return conversation(matter.asks, matter.text(", "))


def write_train(out: Path, n: int, seed: int) -> None:
    """Writes n training pictures, a caption and a conversation about each, and some text only."""
    # seeded by name, as the tests are: more training pictures leave the questions as they were
    rng, captions, instruct = Random(f"train/{seed}"), [], []
    (out / "images").mkdir(parents=True, exist_ok=True)
    for index in range(n):
        sort = rng.choices(list(TRAIN_SORTS), list(TRAIN_SORTS.values()))[0]
        shown = show(rng, sort, rng.randint(*TRAIN_TURNS[sort]), held_out=False)
        name = f"{sort}_{index:06d}"
        file = f"images/{name}.png"
        shown.image.save(out / file, compress_level=1)
        told = (Ask("describe", DESCRIBE, shown.described.caption),)
        captions.append({"id": f"caption_{name}", "messages": conversation(told, "<image>"), "image": [file]})
        talk = conversation(shown.described.asks, "<image>")
        instruct.append({"id": f"instruct_{name}", "messages": talk, "image": [file]})
        if rng.random() < TEXT_SHARE:
            instruct.append({"id": f"text_{index:06d}", "messages": _text_line(rng)})
    write_rows(out / "captions.jsonl", captions)
    write_rows(out / "instruct.jsonl", instruct)


def _question(rng: Random, test: str) -> tuple[Image.Image, Ask]:
    while True:
        if test == "mini_scenes":
            shown = show(rng, "large" if rng.random() < 0.1 else "scene", 1, True, TEST_KINDS)
        elif test == "mini_grounding":
            shown = show(rng, "scene", 1, True, GROUNDING)
        else:
            shown = show(rng, {"mini_digits": "digit", "mini_documents": "document"}[test], 1, True)
        if shown.described.asks:
            return shown.image, shown.described.asks[0]


def write_test(out: Path, n: int, seed: int) -> None:
    """Writes n held-out questions for each of the four miniature benchmarks, one picture each."""
    (out / "test" / "images").mkdir(parents=True, exist_ok=True)
    for test in TESTS:
        rng, lines = Random(f"{test}/{seed}"), []
        for index in range(n):
            image, ask = _question(rng, test)
            file = f"images/{test}_{index:05d}.png"
            image.save(out / "test" / file, compress_level=1)
            line = {"id": f"{test}_{index:05d}", "image": file, "question": ask.question, "answers": [ask.answer]}
            lines.append(line | ({"box": list(ask.box)} if ask.box else {}) | {"kind": ask.kind})
        write_rows(out / "test" / f"{test}.jsonl", lines)


def write_world(out: Path, train: int = 6000, test: int = 300, seed: int = 0) -> None:
    """Writes the whole folder; the same arguments give the same files. ``complete`` is written last and says which."""
    complete = out / "complete"
    # gone while files are written: what a kill left half done is not taken for whole
    complete.unlink(missing_ok=True)
    write_train(out, train, seed)
    write_test(out, test, seed)
    complete.write_text(json.dumps({"train": train, "test": test, "seed": seed}) + "\n", encoding="utf-8")
