"""Evaluation of a run: what is written, that every question counts, resuming, and the blind score."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmllm import cli
from mmllm.batches.sample import Encoded
from mmllm.checkpoints.store import Manifest, commit
from mmllm.encoders.image.hf_vision import HfVisionEncoder
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.mini_scenes import MiniScenes
from mmllm.evaluation.compare import compare
from mmllm.evaluation.metrics.intervals import interval
from mmllm.evaluation.predictions import blinded
from mmllm.evaluation.run import evaluate, evaluate_with
from mmllm.generation.generator import Completion, Generator
from mmllm.model.build import build
from mmllm.model.trainable import frozen_digests, trainable_state
from mmllm.recipe.load import digest, dump, load_recipe
from mmllm.recipe.models import Recipe
from mmllm.testing.tiny import published_benchmarks
from mmllm.testing.tiny.mini_benchmarks import TINY, mini
from mmllm.types import Message, Sample
from tests.support.serving import tiny_generator
from tests.support.training import tiny_recipe


class Scripted(Generator):
    """A model that says what the test wants it to, and remembers what it was asked; reads and measures like any."""

    def __init__(self, said: dict[str, str]) -> None:
        super().__init__(tiny_generator().model)
        self.said = said
        self.asked: list[str] = []

    def generate_encoded(
        self, encoded: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[Completion]:
        self.asked += [one.name + ("" if one.spans else " blind") for one in encoded]
        return [
            Completion(f" {self.said[one.name]}\n" if one.spans else "red", 3, "stop", len(one.ids)) for one in encoded
        ]


RIGHT = {"mini_scenes:0": "red", "mini_scenes:1": "one", "mini_scenes:2": "No."}
WRONG = {**RIGHT, "mini_scenes:1": "7", "mini_scenes:2": ""}


def recipe(**settings: Any) -> Recipe:
    stage = {"train": {"connectors.image": 1e-3}, "data": {"some": 1.0}, "epochs": 1, "batch": 2}
    return Recipe.model_validate(
        {
            "name": "tiny",
            "llm": {"path": "nowhere"},
            "encoders": {"image": {"type": "hf_vision", "args": {"model": "nowhere"}}},
            "connectors": {"image": {"type": "mlp", "source": "image"}},
            "data": {"some": {"type": "chat_jsonl", "args": {"path": "nowhere"}}},
            "stages": {"align": stage},
            "eval": {"max_new_tokens": 4, "batch": 2, **settings},
        }
    )


@pytest.fixture
def world(tmp_path: Path) -> Path:
    mini(MiniScenes, tmp_path / "world")
    return tmp_path / "world"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(
    generator: Generator, world: Path, out: Path, blind: bool = False, limit: int | None = None, **args: Any
) -> Any:
    chosen = {"mini_scenes": {"path": str(world), **args}}
    results = evaluate_with(generator, recipe(), out, chosen, limit, blind)
    file = "results.json" if limit is None else f"results.limit-{limit}.json"
    assert json.loads((out / file).read_text()) == results
    return results["benchmarks"]["mini_scenes"]


def test_results_and_predictions(world: Path, tmp_path: Path) -> None:
    entry = run(Scripted(WRONG), world, tmp_path / "run")
    assert (entry["metric"], entry["variant"]) == ("exact_match", "vqa_normalised")
    assert entry["score"] == pytest.approx(1 / 3)
    assert (entry["n"], entry["total"], entry["unparsed"], entry["failed"]) == (3, 3, 1, 0)
    assert entry["interval"] == list(interval([1.0, 0.0, 0.0], ["one picture"] * 3))
    assert entry["blind"] is None
    tiny = {"score": pytest.approx(1 / 3), "n": 3, "interval": entry["interval"], "blind": None, "rule": None}
    assert entry["kinds"] == {"tiny": tiny} and entry["items"] == 1
    assert entry["prompt"] == "<image>\n{question}"
    assert entry["decoding"] == {"method": "greedy", "max_new_tokens": 4}
    assert set(entry["files"]) == {"mini_scenes.jsonl"}
    rows = lines(tmp_path / "run" / "predictions" / "mini_scenes.jsonl")
    assert [row["name"] for row in rows] == list(WRONG)
    assert [row["prediction"] for row in rows] == ["red", "7", ""]
    assert [row["score"] for row in rows] == [1.0, 0.0, 0.0]
    assert [row["parsed"] for row in rows] == [True, True, False]
    assert rows[1]["references"] == ["1"]
    assert rows[1]["question"] == "how many shapes?"


def test_the_file_says_what_was_measured_on_what(world: Path, tmp_path: Path) -> None:
    generator = Scripted(RIGHT)
    results = evaluate_with(generator, recipe(), tmp_path, {"mini_scenes": {"path": str(world)}})
    assert set(results) == {"recipe", "checkpoint", "digests", "machine", "benchmarks"}
    assert results["recipe"]["name"] == "tiny"
    assert set(results["digests"]) == {"llm", "encoders.image", "connectors.image"}
    with torch.no_grad():
        next(generator.model.connectors["image"].parameters()).add_(1.0)
    later = evaluate_with(generator, recipe(), tmp_path, {"mini_scenes": {"path": str(world)}})
    changed = {part for part in results["digests"] if results["digests"][part] != later["digests"][part]}
    assert changed == {"connectors.image"}
    assert results["checkpoint"] != later["checkpoint"]


def test_blind_asks_the_same_without_the_picture(world: Path, tmp_path: Path) -> None:
    generator = Scripted(RIGHT)
    entry = run(generator, world, tmp_path, blind=True)
    assert entry["score"] == 1.0
    assert entry["blind"] == pytest.approx(1 / 3)
    assert entry["blind_interval"] == list(interval([1.0, 0.0, 0.0], ["one picture"] * 3))
    assert sorted(generator.asked) == sorted([*RIGHT, *(f"{name} blind" for name in RIGHT)])
    assert [row["prediction"] for row in lines(tmp_path / "predictions" / "mini_scenes.blind.jsonl")] == ["red"] * 3
    again = run(generator, world, tmp_path)
    assert (again["blind"], again["blind_interval"]) == (entry["blind"], entry["blind_interval"])


def test_the_recipe_can_ask_for_the_blind_score(world: Path, tmp_path: Path) -> None:
    settings = recipe(benchmarks={"mini_scenes": {"path": str(world)}}, blind=True)
    entry = evaluate_with(Scripted(RIGHT), settings, tmp_path)["benchmarks"]["mini_scenes"]
    assert entry["blind"] == pytest.approx(1 / 3)


def test_blinded_removes_every_placeholder_and_its_line_break(world: Path) -> None:
    question = MiniScenes(path=str(world), prompt="A <image> and\n<image>\n{question}")[0]
    message = Message("user", question.sample.messages[0].text)
    two = Sample("x", (message,), {"image": (1, 2)})
    without = blinded(type(question)(two, question.text, question.reference)).sample
    assert without.messages[0].text == "A  and\nwhat color is the shape?"
    assert without.media == {}


def test_answers_are_kept_and_only_missing_ones_are_asked(world: Path, tmp_path: Path) -> None:
    first = Scripted(RIGHT)
    entry = run(first, world, tmp_path)
    assert sorted(first.asked) == sorted(RIGHT)
    second = Scripted(RIGHT)
    assert run(second, world, tmp_path) == entry
    assert second.asked == []

    path = tmp_path / "predictions" / "mini_scenes.jsonl"
    text = path.read_text()
    path.write_text(text[: len(text) - 25])  # a kill while the last line was written
    third = Scripted(RIGHT)
    assert run(third, world, tmp_path) == entry
    assert third.asked == ["mini_scenes:2"]
    assert path.read_text() == text


@pytest.mark.parametrize("change", ["weights", "prompt", "questions", "tokens", "version"])
def test_changed_conditions_ask_everything_again(
    world: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(Scripted(RIGHT), world, tmp_path)
    other = Scripted(WRONG)
    arguments: dict[str, Any] = {}
    settings = recipe()
    if change == "weights":
        with torch.no_grad():
            next(other.model.connectors["image"].parameters()).add_(1.0)
    elif change == "version":
        monkeypatch.setattr("mmllm.evaluation.run.__version__", "99")
    elif change == "prompt":
        arguments["prompt"] = "<image> {question}"
    elif change == "questions":
        file = world / "test" / "mini_scenes.jsonl"
        file.write_text(file.read_text().replace("how many shapes?", "how many things?"))
    else:
        settings = recipe(max_new_tokens=5)
    chosen = {"mini_scenes": {"path": str(world), **arguments}}
    entry = evaluate_with(other, settings, tmp_path, chosen)["benchmarks"]["mini_scenes"]
    assert sorted(other.asked) == sorted(RIGHT)
    assert entry["score"] == pytest.approx(1 / 3)
    assert len(lines(tmp_path / "predictions" / "mini_scenes.jsonl")) == 3


def test_another_picture_under_the_same_name_is_asked_about_again(world: Path, tmp_path: Path) -> None:
    file, picture = world / "test" / "mini_scenes.jsonl", world / "test" / "own.bmp"
    Image.new("RGB", (30, 30), "red").save(picture)
    rows = lines(file)
    rows[1]["image"] = picture.name
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    run(Scripted(RIGHT), world, tmp_path)
    stamp = picture.stat()
    os.utime(picture)  # touched, not changed
    untouched = Scripted(WRONG)
    run(untouched, world, tmp_path)
    assert untouched.asked == []
    # of the same size and time, another content
    Image.new("RGB", (30, 30), "blue").save(picture)
    assert picture.stat().st_size == stamp.st_size
    os.utime(picture, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    later = Scripted(WRONG)
    run(later, world, tmp_path)
    run(later, world, tmp_path)
    assert later.asked == ["mini_scenes:1"]


def test_limit_is_recorded_and_may_grow(world: Path, tmp_path: Path) -> None:
    entry = run(Scripted(RIGHT), world, tmp_path, limit=2)
    assert (entry["n"], entry["total"], entry["limit"]) == (2, 3, 2)
    later = Scripted(RIGHT)
    assert run(later, world, tmp_path)["n"] == 3
    assert later.asked == ["mini_scenes:2"]
    whole = (tmp_path / "results.json").read_text()
    assert run(Scripted(RIGHT), world, tmp_path, limit=50)["n"] == 3
    run(Scripted(WRONG), world, tmp_path, limit=1)
    assert (tmp_path / "results.json").read_text() == whole  # a part never replaces the score over all
    with pytest.raises(MmllmError, match="--limit 0"):
        run(later, world, tmp_path, limit=0)


def test_questions_that_cannot_be_asked_count_as_wrong_and_are_named(world: Path, tmp_path: Path) -> None:
    file = world / "test" / "mini_scenes.jsonl"
    rows = lines(file)
    rows[0]["question"] = "what color is the shape? " * 40
    (world / "test" / "broken.png").write_bytes(b"not a picture")
    rows[1]["image"] = "broken.png"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = run(Scripted(RIGHT), world, tmp_path)
    assert entry["score"] == pytest.approx(1 / 3)
    assert (entry["n"], entry["failed"], entry["unparsed"]) == (3, 2, 2)
    found = lines(tmp_path / "predictions" / "mini_scenes.jsonl")
    assert "context of 256" in found[0]["error"]
    assert "broken.png" in found[1]["error"]
    assert found[2]["error"] is None

    (world / "test" / "broken.png").write_bytes((world / "test" / "0.png").read_bytes())
    mended = Scripted(RIGHT)
    assert run(mended, world, tmp_path)["failed"] == 1
    assert mended.asked == ["mini_scenes:1"]


def test_benchmarks_add_up_in_one_file_for_the_same_weights(world: Path, tmp_path: Path) -> None:
    TINY["mini_grounding"](tmp_path / "boxes")
    boxes = {f"mini_grounding:{n}": text for n, text in enumerate(("[0,0,50,50]", "somewhere", "[60,10,90,36]"))}
    generator = Scripted({**RIGHT, **boxes})
    run(generator, world, tmp_path)
    chosen = {"mini_grounding": {"path": str(tmp_path / "boxes")}}
    results = evaluate_with(generator, recipe(), tmp_path, chosen)["benchmarks"]
    assert list(results) == ["mini_scenes", "mini_grounding"]
    assert results["mini_grounding"]["score"] == pytest.approx(2 / 3)
    assert results["mini_grounding"]["unparsed"] == 1
    with torch.no_grad():
        next(generator.model.connectors["image"].parameters()).add_(1.0)
    assert list(evaluate_with(generator, recipe(), tmp_path, chosen)["benchmarks"]) == ["mini_grounding"]


def test_a_real_model_answers_alike_alone_and_in_batches(world: Path, tmp_path: Path) -> None:
    generator = tiny_generator()
    chosen = {"mini_scenes": {"path": str(world)}}
    said = []
    for batch in (1, 3):
        evaluate_with(generator, recipe(batch=batch, max_new_tokens=8), tmp_path / str(batch), chosen, blind=True)
        rows = lines(tmp_path / str(batch) / "predictions" / "mini_scenes.jsonl")
        rows += lines(tmp_path / str(batch) / "predictions" / "mini_scenes.blind.jsonl")
        said.append([row["prediction"] for row in rows])
    assert said[0] == said[1]
    assert any(said[0])
    assert said[0][:3] != said[0][3:]


def test_the_command_evaluates_a_run_folder(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_recipe(tmp_path)
    trained = load_recipe(path, [f"eval.benchmarks={json.dumps({'mini_scenes': {'path': str(world)}})}"])
    model = build(trained)
    with torch.no_grad():
        next(model.connectors["image"].parameters()).mul_(3.0)
    learned = {name: tensor.clone() for name, tensor in trainable_state(model).items()}
    head = Manifest("align", 7, True, 1, digest(trained), frozen_digests(model))
    commit(tmp_path / "run" / "stages" / "align", head, {"learned.safetensors": learned}, keep=1)
    (tmp_path / "run" / "recipe.yaml").write_text(dump(trained))

    assert cli.main(["eval", str(tmp_path / "run"), "--blind", "--limit", "2"]) == 0
    shown = capsys.readouterr().out
    assert "mini_scenes" in shown and "exact_match" in shown and "95 %" in shown
    found = json.loads((tmp_path / "run" / "results.limit-2.json").read_text())
    entry = found["benchmarks"]["mini_scenes"]
    assert (entry["n"], entry["limit"]) == (2, 2)
    assert entry["blind"] is not None
    here = evaluate_with(Generator(model), trained, tmp_path / "here", limit=2, blind=True)
    assert here == found
    # with features kept, then without any call of the encoder: the same answers
    kept = f"eval.cache={{dir: {tmp_path / 'features'}, dtype: float32}}"
    for n in ("first", "second"):
        assert cli.main(["eval", str(tmp_path / "run"), kept, "--limit", "2", "--out", str(tmp_path / n)]) == 0
        found = lines(tmp_path / n / "predictions" / "mini_scenes.jsonl")
        assert found == lines(tmp_path / "run" / "predictions" / "mini_scenes.jsonl")[:2]
        monkeypatch.setattr(HfVisionEncoder, "hidden", None)
    assert cli.main(["eval", str(tmp_path / "run"), "--benchmarks", "docvqa"]) == 2
    assert "val_v1.0_withQT.json" in capsys.readouterr().err


class Generous(MiniScenes):
    """Somebody else's benchmark, whose metric would even give points for silence."""

    name = "generous"

    def score(self, prediction: str, reference: Any) -> float:
        return 1.0


def test_a_benchmark_from_elsewhere_gives_no_points_for_silence(tmp_path: Path) -> None:
    mini(Generous, tmp_path)
    said = {f"generous:{n}": text for n, text in enumerate(("x", "", " \n"))}
    chosen = {"tests.unit.evaluation.test_run:Generous": {"path": str(tmp_path)}}
    entry = evaluate_with(Scripted(said), recipe(), tmp_path, chosen)["benchmarks"]["generous"]
    assert (entry["score"], entry["n"], entry["unparsed"]) == (pytest.approx(1 / 3), 3, 2)


def test_mistakes_are_one_sentence(world: Path, tmp_path: Path) -> None:
    generator = Scripted(RIGHT)
    with pytest.raises(MmllmError, match=r"No benchmark.*mini_scenes"):
        evaluate_with(generator, recipe(), tmp_path, {})
    with pytest.raises(MmllmError, match=r"mini_scene.*mini_scenes"):
        evaluate_with(generator, recipe(), tmp_path, {"mini_scene": {}})
    with pytest.raises(MmllmError, match=r"eval.benchmarks.mini_scenes.*paht.*prompt"):
        evaluate_with(generator, recipe(), tmp_path, {"mini_scenes": {"paht": "x"}})
    with pytest.raises(MmllmError, match=r"mini_scenes\.jsonl"):
        evaluate_with(generator, recipe(), tmp_path, {"mini_scenes": {"path": str(tmp_path / "nowhere")}})
    file = world / "test" / "mini_scenes.jsonl"
    file.write_text(file.read_text().replace('"id": "1"', '"id": "0"'))
    with pytest.raises(MmllmError, match="same id"):
        run(generator, world, tmp_path)
    assert generator.asked == []
    with pytest.raises(MmllmError, match="no run folder"):
        evaluate(tmp_path)


def test_a_score_that_is_no_mean_stands_with_its_figures(tmp_path: Path) -> None:
    published_benchmarks.opened("mme", tmp_path / "mme")
    said = {"mme:1": "Yes", "mme:2": "No", "mme:3": "yes", "mme:4": "yes"}  # two pictures, one wholly right
    results = evaluate_with(
        Scripted(said), recipe(), tmp_path / "run", {"mme": {"path": str(tmp_path / "mme")}}, blind=True
    )
    entry = results["benchmarks"]["mme"]
    assert entry["score"] == 125.0 and entry["n"] == 4 and entry["items"] == 2
    assert entry["figures"] == {"perception": 125.0, "cognition": 0, "accuracy": 0.75}
    assert entry["kinds"]["color"]["score"] == 125.0 and entry["blind"] == 0.0  # blind it says "red"
    low, high = entry["interval"]
    assert low < 125.0 < high
    (shown,) = compare(tmp_path / "run", tmp_path / "run")
    assert shown.rows[0].first == 0.75 and any("it was 125.000 in A" in note for note in shown.notes)
