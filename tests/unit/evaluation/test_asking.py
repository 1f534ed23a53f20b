"""What is asked and how: ranked options, shots in front of a question, a random draw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.base import CHOICES, Benchmark
from mmllm.evaluation.benchmarks.qa import Qa
from mmllm.evaluation.draw import draw
from mmllm.evaluation.run import evaluate_with, opened
from mmllm.generation.likelihood import Likelihoods
from mmllm.testing.tiny import published_benchmarks
from mmllm.types import Message, Sample
from tests.support.serving import tiny_generator
from tests.unit.evaluation.test_run import Scripted, lines, recipe

OPTIONS = ["red", "one green triangle", "4"]


def questions(folder: Path, name: str = "own.json", colours: Sequence[str] = ("red", "blue"), **more: Any) -> str:
    """A question about a picture of each colour."""
    rows = []
    for number, colour in enumerate(colours):
        Image.new("RGB", (28, 28), colour).save(folder / f"{colour}.png")
        rows.append({"id": f"{name}/{number}", "question": "What?", "answer": "red", "image": f"{colour}.png", **more})
    (folder / name).write_text(json.dumps(rows))
    return str(folder / name)


def test_options_are_ranked_by_the_model(tmp_path: Path) -> None:
    generator = tiny_generator()
    entry = {"type": "qa", "path": questions(tmp_path, options=OPTIONS), "metric": "accuracy"}
    chosen = {f"mine_{choice}": {**entry, "choice": choice} for choice in CHOICES[1:]}
    results = evaluate_with(generator, recipe(), tmp_path / "run", chosen, blind=True)["benchmarks"]
    rows = {name: lines(tmp_path / "run" / "predictions" / f"{name}.jsonl") for name in chosen}
    sample = Sample("x", (Message("user", "<image>\nWhat?"),), {"image": (tmp_path / "red.png",)})
    likelihoods = Likelihoods(generator)
    (found,) = likelihoods.of([likelihoods.encode(sample, OPTIONS)])
    # texts are ranked where they do not stand in the prompt
    assert rows["mine_likelihood"][0]["likelihoods"] == pytest.approx([one.total for one in found], abs=1e-4)
    per_token = rows["mine_likelihood_per_token"][0]["likelihoods"]
    assert per_token == pytest.approx([one.per_token for one in found], abs=1e-4)
    for name, some in rows.items():
        for row in some:
            best = max(range(3), key=row["likelihoods"].__getitem__)
            assert row["prediction"] == "ABC"[best] and row["parsed"] and 1 / 3 <= row["confidence"] <= 1
            assert row["score"] == float(OPTIONS[best] == "red")
        assert results[name]["variant"] == results[name]["decoding"]["method"] == name.removeprefix("mine_")
        assert results[name]["blind"] is not None
    letters = Qa(path=entry["path"], metric="accuracy", choice="likelihood_letter")
    assert letters.candidates(letters[0]) == "ABC" and "B. one green triangle" in letters[0].sample.messages[0].text


def test_published_sets_rank_what_their_rows_have(tmp_path: Path) -> None:
    mmbench = published_benchmarks.opened("mmbench", tmp_path / "mmbench")
    path = tmp_path / "mmbench"
    ranked = type(mmbench)(path=str(path), choice="likelihood_per_token")
    assert ranked.variant == "circular, likelihood_per_token" and ranked.prompt == "<image>\n{question}"
    first = ranked[0]
    assert first.sample.messages[0].text.startswith("<image>\n") and "A. " not in first.sample.messages[0].text
    assert "several options" not in first.text and ranked.candidates(first) == first.options
    letters = type(mmbench)(path=str(path), choice="likelihood_letter")
    assert letters[0].sample == mmbench[0].sample and letters.candidates(letters[0]) == "ABCD"[: len(first.options)]


def test_what_cannot_be_ranked_is_said(tmp_path: Path) -> None:
    path = questions(tmp_path, options=OPTIONS)
    with pytest.raises(MmllmError, match=r"choice is 'likely'; known: generated, likelihood, "):
        Qa(path=path, metric="accuracy", choice="likely")
    with pytest.raises(MmllmError, match=r"choice: likelihood ranks options; write metric: accuracy"):
        Qa(path=questions(tmp_path, "b.json"), choice="likelihood")
    published_benchmarks.opened("mmstar", tmp_path / "mmstar")
    with pytest.raises(MmllmError, match=r"stand in the question; choice: likelihood_letter ranks"):
        opened({"mmstar": {"path": str(tmp_path / "mmstar"), "choice": "likelihood"}})
    published_benchmarks.opened("pope", tmp_path / "pope")
    with pytest.raises(MmllmError, match=r"pope: .* has no options, and choice: likelihood ranks options"):
        opened({"pope": {"path": str(tmp_path / "pope"), "choice": "likelihood"}})


# ---- shots


class Listening(Scripted):
    """Answers nothing, and keeps the conversations it was shown."""

    def __init__(self) -> None:
        super().__init__({})
        self.shown: dict[str, Sample] = {}

    def encode(self, sample: Sample) -> Any:
        self.shown[sample.name + ("" if sample.media else " blind")] = sample
        return super().encode(sample)

    def generate_encoded(self, encoded: Any, max_new_tokens: int, stop: Sequence[str] = ()) -> Any:
        self.said = {one.name: "red" for one in encoded}
        return super().generate_encoded(encoded, max_new_tokens, stop)


def test_solved_questions_of_a_training_split_stand_in_front(tmp_path: Path) -> None:
    train = questions(tmp_path, "train.json", ("red", "green", "white", "black"))
    mine = {"type": "qa", "path": questions(tmp_path), "shots": {"n": 2, "seed": 3, "path": train}}
    generator = Listening()
    entry = evaluate_with(generator, recipe(), tmp_path / "run", {"mine": mine}, blind=True)["benchmarks"]["mine"]
    assert entry["shots"]["n"] == 2 and entry["shots"]["seed"] == 3 and "train.json" in entry["shots"]["files"]
    own = generator.shown["mine:own.json/0"]
    assert [message.role for message in own.messages] == ["user", "assistant"] * 2 + ["user"]
    assert [message.text for message in own.messages[:2]] == ["<image>\nWhat?", "red"]
    # the pictures of the shots are shown too; none is the one asked about, which is in the training split as well
    names = [path.name for path in own.media["image"]]
    assert len(names) == 3 and names[-1] == "red.png" and "red.png" not in names[:-1]
    other = generator.shown["mine:own.json/1"]
    assert {name.split(":", 1)[1] for name in entry["shots"]["names"]} <= {f"train.json/{n}" for n in range(4)}
    assert [path.name for path in other.media["image"]][-1] == "blue.png"
    blind = generator.shown["mine:own.json/0 blind"]
    assert [message.text for message in blind.messages] == ["What?", "red", "What?", "red", "What?"]
    assert entry["items"] == 2  # what a question is about is its own picture

    before = entry["key"]
    again = evaluate_with(Listening(), recipe(), tmp_path / "run", {"mine": mine})["benchmarks"]["mine"]
    assert again["key"] == before and again["shots"] == entry["shots"]
    more = {"mine": {**mine, "shots": {"n": 1, "path": train}}}
    assert evaluate_with(Listening(), recipe(), tmp_path / "run", more)["benchmarks"]["mine"]["key"] != before


def test_shots_that_cannot_be_are_said(tmp_path: Path) -> None:
    mine = {"type": "qa", "path": questions(tmp_path)}
    generator = Listening()
    for shots, wrong in (
        ({"n": 2, "path": mine["path"]}, r"1 of 2 drawn questions may stand in front of it and 2 shots are wanted"),
        ({"n": 0}, r"mine.shots: found .*; write a number above 0"),
        ({"n": 1, "path": str(tmp_path / "no.json")}, r"mine\.shots: .*no\.json"),
    ):
        with pytest.raises(MmllmError, match=wrong):
            evaluate_with(generator, recipe(), tmp_path / "run", {"mine": {**mine, "shots": shots}})
    boxes = {"metric": "iou@0.5", "path": questions(tmp_path, "box.json", answer="[0.1, 0.1, 0.5, 0.5]")}
    with pytest.raises(MmllmError, match="is a box, which is no shot"):
        evaluate_with(generator, recipe(), tmp_path / "run", {"mine": {**mine, **boxes, "shots": {"n": 1, **boxes}}})


# ---- draws


class Numbered(Benchmark):
    """Questions that are their numbers, in groups of three."""

    name = "numbered"
    metric = "exact_match"
    files = ()

    def __init__(self, n: int, grouped: bool) -> None:
        super().__init__(prompt="{question}")
        self._n, self._grouped = n, grouped

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> Any:
        return self.question(index, str(index), {}, ("x",))

    def cluster(self, question: Any) -> Any:
        return int(question.text) // 3 if self._grouped else None


def test_a_seed_draws_so_many_at_random() -> None:
    single, grouped = Numbered(300, False), Numbered(300, True)
    assert draw(single, None, None) == draw(single, 300, 7) == list(range(300)) and draw(single, 3, None) == [0, 1, 2]
    fifty = draw(single, 50, 7)
    assert len(set(fifty)) == 50 and fifty == sorted(fifty) == draw(single, 50, 7) != draw(single, 50, 8)
    assert set(draw(single, 20, 7)) < set(fifty) and max(fifty) > 200
    together = draw(grouped, 50, 7)
    assert len(together) == 48 and all(n // 3 * 3 + k in together for n in together for k in range(3))
    assert set(draw(grouped, 20, 7)) < set(together) and len(draw(grouped, 1, 7)) == 3


def test_a_draw_has_results_of_its_own_and_keeps_answers(tmp_path: Path) -> None:
    colours = ("red", "blue", "green", "white", "black", "pink")
    mine = {"mine": {"type": "qa", "path": questions(tmp_path, colours=colours)}}
    entry = evaluate_with(Listening(), recipe(), tmp_path / "run", mine, limit=3, sample=5)["benchmarks"]["mine"]
    assert (entry["n"], entry["limit"], entry["sample"]) == (3, 3, 5)
    assert (tmp_path / "run" / "results.limit-3.sample-5.json").is_file()
    later = Listening()
    evaluate_with(later, recipe(), tmp_path / "run", mine, limit=5, sample=5)
    assert len(later.shown) == 2
    with pytest.raises(MmllmError, match=r"--sample 5 is the seed of a draw; say how many .*--limit N"):
        evaluate_with(later, recipe(), tmp_path / "run", mine, sample=5)
