"""The miniature world: its splits never overlap, its answers are right, its pictures lie where their facts say."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from mmllm.miniature.parts.pictures import COLUMN, LABELS, document_picture, large_picture, scene_picture
from mmllm.miniature.tasks.images import TESTS, write_world
from mmllm.miniature.world.documents import about_document, document
from mmllm.miniature.world.questions import about_large, about_scene, scene_ask
from mmllm.miniature.world.render import draw_document, draw_scene, pick_digit
from mmllm.miniature.world.scenes import Thing, large, scene
from mmllm.miniature.world.splits import field_held_out, large_held_out, object_held_out, price_held_out
from mmllm.miniature.world.words import COLOURS, PLACES, SHAPES
from tests.support.places import ROOT

FIXTURES = ROOT / "data" / "mini" / "fixtures"


def test_train_and_test_share_no_combination() -> None:
    seen: dict[bool, set[tuple[str, ...]]] = {False: set(), True: set()}
    for held_out, found in seen.items():
        rng = Random(f"split/{held_out}")
        for _ in range(400):
            found.update(thing.words for thing in scene(rng, rng.randint(1, 6), held_out))
            kind, rows = document(rng, held_out)
            if kind == "form":
                found.update((str(row), *pair) for row, pair in enumerate(rows) if pair[0] != "code")
            else:
                found.update((kind, *pair) for pair in rows)
            found.add(("digit image", str(pick_digit(rng, held_out)[0])))
            thing = large(rng, held_out)
            found.add(("large", thing.colour, thing.shape))
    assert not seen[False] & seen[True]
    assert min(len(found) for found in seen.values()) > 150


def test_every_word_is_met_in_training() -> None:
    rng = Random(1)
    things = [thing for _ in range(800) for thing in scene(rng, 6, held_out=False)]
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.place for thing in things} == set(PLACES)
    assert len({(thing.colour, thing.shape) for thing in things}) == len(COLOURS) * len(SHAPES)


def test_held_out_rules_hold_out_an_eighth() -> None:
    objects = [object_held_out(p, c, s) for p in PLACES for c in COLOURS for s in SHAPES]
    prices = [price_held_out("tea", number) for number in range(1, 97)]
    assert sum(objects) * 8 == len(objects)
    assert sum(prices) * 8 == len(prices)
    assert field_held_out(0, "anna") and not field_held_out(1, "anna")
    assert sum(large_held_out(c, s) for c in COLOURS for s in SHAPES) == len(SHAPES)


def _things() -> tuple[Thing, ...]:
    return (
        Thing("a1", "red", "circle", (2, 2, 13, 13)),
        Thing("d1", "blue", "star", (50, 1, 62, 13)),
        Thing("b4", "red", "cross", (17, 50, 30, 63)),
    )


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("what is at a1?", "red circle"),
        ("what color is at d1?", "blue"),
        ("what shape is at b4?", "cross"),
        ("where is the red cross?", "b4"),
        ("how many red shapes?", "2"),
        ("how many stars?", "1"),
        ("what color is the star?", "blue"),
        ("what is the blue shape?", "star"),
        ("is there a blue star?", "yes"),
        ("is there not a red shape?", "no"),
        ("does the image not contain a teal shape?", "yes"),
        ("is the red circle left of the blue star?", "yes"),
        ("is the blue star below the red cross?", "no"),
        ("box of the red circle?", "[3,3,20,20]"),
    ],
)
def test_answers_about_a_known_scene(question: str, answer: str) -> None:
    rng, kinds = Random(0), ("at", "part_at", "color_of", "shape_of", "where", "count", "presence", "relation", "box")
    found = {}
    for _ in range(600):
        for kind in kinds:
            ask = scene_ask(rng, _things(), kind, boxes=True)
            if ask is not None:
                assert found.setdefault(ask.question, ask.answer) == ask.answer
    assert found[question] == answer


def test_negated_share_is_kept() -> None:
    rng = Random(3)
    kinds = [ask.kind for _ in range(60) for ask in about_large(rng, large(rng, False), 9, negated_share=0.0).asks]
    assert "large_presence" in kinds and "large_negated" not in kinds


def test_document_answers_are_its_values() -> None:
    rng = Random(4)
    for _ in range(100):
        kind, rows = document(rng, held_out=True)
        for ask in about_document(rng, kind, rows, 5).asks:
            key = ask.question.rstrip("?").split()[-1]
            assert ask.answer == dict(rows).get(key, {"it": kind, "row": rows[0][0]}.get(key))
        if kind == "receipt":
            *items, total = (int(value) for _, value in rows)
            assert sum(items) == total


def test_objects_are_drawn_inside_their_boxes() -> None:
    rng = Random(5)
    for _ in range(20):
        things = scene(rng, 4, held_out=False)
        pixels = np.asarray(draw_scene(rng, things)).astype(int)
        inked = pixels.min(axis=2) < 190
        for thing in things:
            x1, y1, x2, y2 = thing.pixels
            assert inked[y1 : y2 + 1, x1 : x2 + 1].mean() > 0.2
            inked[y1 : y2 + 1, x1 : x2 + 1] = False
        assert inked.mean() < 0.002


def test_document_rows_lie_in_their_quarters() -> None:
    rows = (("tea", "12"), ("milk", "30"), ("total", "42"))
    pixels = np.asarray(draw_document(Random(6), "receipt", rows)).astype(int).min(axis=2) < 170
    for row in range(3):
        for left in (0, 32):
            assert pixels[16 * row : 16 * row + 16, left : left + 32].sum() > 20
    assert pixels[50:].sum() < 20


def test_labels_say_what_the_facts_say() -> None:
    rng = Random(7)
    picture = scene_picture(rng, held_out=False)
    words = []
    for cell, place in enumerate(PLACES):
        color, shape = (LABELS[name][picture.labels[cell, COLUMN[name]]] for name in ("color", "shape"))
        words += [f"{place} {color} {shape}"] if color != "nothing" else []
    assert ", ".join(words) == picture.caption
    covered = large_picture(rng, held_out=False).labels[:, COLUMN["shape"]]
    assert 1 <= (covered > 0).sum() <= 16
    document_labels = document_picture(rng, held_out=False).labels[0]
    assert document_labels[COLUMN["key"]] > 0 and document_labels[COLUMN["value"]] > 0


def test_about_scene_gives_different_questions() -> None:
    asks = about_scene(Random(8), _things(), 8).asks
    assert len(asks) == 8 == len({ask.question for ask in asks})


def test_written_world_is_complete_and_repeatable(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_world(tmp_path / name, train=12, test=3, seed=5)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len([file for file in files if file.suffix == ".png"]) == 12 + 4 * 3
    assert {"captions.jsonl", "instruct.jsonl"} < {file.name for file in files}
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    for line in map(json.loads, (tmp_path / "one" / "captions.jsonl").read_text().splitlines()):
        assert line["messages"][0]["content"] == "<image>\ndescribe the image."
        assert (tmp_path / "one" / line["image"][0]).is_file()


@pytest.mark.parametrize("test", TESTS)
def test_fixtures_are_whole(test: str) -> None:
    lines = [json.loads(line) for line in (FIXTURES / "test" / f"{test}.jsonl").read_text().splitlines()]
    assert lines
    for line in lines:
        assert (FIXTURES / "test" / line["image"]).is_file()
        assert line["question"].endswith("?") and line["answers"]
        assert ("box" in line) == (test == "mini_grounding")
