"""Calibration of decisions: what is fitted, on what it is measured, and that the server answers by it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sklearn.linear_model import LogisticRegression

from mmllm.calibration.calibrate import LEAST, Weighed, figures, fit
from mmllm.calibration.known import read_known
from mmllm.cli import main as mmllm
from mmllm.errors import MmllmError
from mmllm.miniature.world.render import draw_scene
from mmllm.miniature.world.scenes import scene
from mmllm.serving.app import load_app
from mmllm.serving.decisions.calibration import Scale, read_calibration
from tests.support.serving import local
from tests.support.short_runs import ROOT

RUN = ROOT / "tests" / "fixtures" / "old_runs" / "pool_lora"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained run in a folder that may be written to; its parts are beside the tests."""
    monkeypatch.chdir(ROOT)
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def written(folder: Path, rows: list[dict[str, Any]]) -> str:
    (folder / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "known.jsonl")


def scenes(folder: Path, n: int) -> list[dict[str, Any]]:
    """Of each of n pictures a question of yes or no and one of several colours."""
    rng, rows = Random(0), []
    for number in range(n):
        (thing,) = scene(rng, 1, False)
        draw_scene(rng, [thing]).save(folder / f"{number}.png")
        shown: dict[str, Any] = {"image": f"{number}.png"}
        asked = thing.colour if rng.random() < 0.5 else "purple"
        rows.append(
            {**shown, "question": f"is there a {asked} shape?", "answer": "yes" if asked == thing.colour else "No"}
        )
        options = sorted({thing.colour, "red", "blue", "gray"})
        question = f"what color is the {thing.shape}?"
        rows.append({**shown, "question": question, "options": options, "answer": thing.colour})
    return rows


def test_a_temperature_and_a_bias_are_found_again() -> None:
    rng = Random(0)
    choices, predicates = [], []
    for _ in range(4000):
        weights = [rng.gauss(0, 3) for _ in range(4)]
        right = rng.choices(range(4), Scale(0.5).probabilities(weights))[0]
        choices.append(Weighed(weights, right))
        predicates.append(Weighed(weights[:2], int(rng.random() >= Scale(0.5, -1.5).probabilities(weights[:2])[0])))
    assert fit(choices, biased=False).slope == pytest.approx(0.5, rel=0.05)
    scale = fit(predicates, biased=True)
    assert (scale.slope, scale.bias) == (pytest.approx(0.5, rel=0.1), pytest.approx(-1.5, rel=0.1))
    # Platt's scaling is a logistic regression on the log odds
    odds = [[one.weights[0] - one.weights[1]] for one in predicates]
    theirs = LogisticRegression(C=1e9).fit(odds, [1 - one.right for one in predicates])
    assert scale.slope == pytest.approx(theirs.coef_[0, 0], rel=1e-2)
    assert scale.bias == pytest.approx(theirs.intercept_[0], rel=1e-2)
    before, after = figures(Scale(), choices), figures(fit(choices, biased=False), choices)
    assert before["ece"] > 0.1 > 0.03 > after["ece"] and before["accuracy"] == after["accuracy"]


def test_figures_are_those_of_their_definitions() -> None:
    sure = [Weighed([math.log(0.8), math.log(0.2)], right) for right in (0, 0, 0, 1)]
    found = figures(Scale(), sure)
    assert found["nll"] == pytest.approx(-(3 * math.log(0.8) + math.log(0.2)) / 4)
    assert found["brier"] == pytest.approx((3 * 2 * 0.04 + 2 * 0.64) / 4)
    assert found["accuracy"] == 0.75
    # each alone in a bin: 0.2 off where right, 0.8 where not
    assert found["ece"] == pytest.approx((3 * 0.2 + 0.8) / 4)


def test_the_server_answers_by_what_was_fitted(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, scenes(tmp_path, 2 * LEAST))
    predicate = {"type": "predicate", "instructions": "is there a red shape?"}
    body = {"model": "pool_lora", "input": "x", "questions": [predicate]}

    def decided() -> tuple[float, list[str]]:
        with local(load_app(run)[1]) as client:
            found = client.post("/v1/decisions", json=body).json()
        return found["answers"][0]["probability"], found["calibrated"]

    bare, calibrated = decided()
    assert calibrated == []
    assert mmllm(["calibrate", str(run), path]) == 0
    said = capsys.readouterr().out
    assert said.count(f"on {LEAST} others") == 2 and f"kept: {run / 'decisions.json'}" in said
    kept = read_calibration(run)
    assert kept.measured["choice"]["n"] == LEAST == kept.measured["predicate"]["fitted_to"]
    for kind, figures_of in kept.measured.items():
        assert (kind in kept.scales) is (figures_of["after"]["nll"] < figures_of["before"]["nll"])
    (run / "decisions.json").write_text(
        json.dumps({"weights": kept.weights, "scales": {"predicate": {"slope": 0.5, "bias": -1.0}}})
    )
    odds, calibrated = decided()
    wanted = 0.5 * math.log(bare / (1 - bare)) - 1.0
    assert calibrated == ["predicate"] and math.log(odds / (1 - odds)) == pytest.approx(wanted, abs=1e-4)


def test_other_weights_are_not_scaled(run: Path) -> None:
    (run / "decisions.json").write_text(json.dumps({"weights": "0" * 64, "scales": {}}))
    with pytest.raises(MmllmError, match="made with other weights than"):
        read_calibration(run)
    with local(load_app(run)[1]) as client:
        asked = {"type": "predicate", "instructions": "is it red?"}
        answer = client.post("/v1/decisions", json={"model": "pool_lora", "input": "x", "questions": [asked]})
        assert answer.status_code == 503 and "other weights" in answer.json()["error"]["message"]
        chat = {"model": "pool_lora", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        assert client.post("/v1/chat/completions", json=chat).status_code == 200


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"question": "is it red?", "answer": "perhaps"}, "it has the answer 'perhaps'; it is one of yes, no"),
        ({"question": "which?", "options": ["a", "b"], "answer": "c"}, "it has the answer 'c'; it is one of a, b"),
        ({"question": "which?", "options": ["a", "a"], "answer": "a"}, "two of the choices say the same"),
        ({"question": "which?", "options": "a or b", "answer": "a"}, "they are a list of texts"),
        ({"question": "is it?", "answer": "yes", "image": "nowhere.png"}, "there is no file"),
        ({"question": "is it?", "answer": "yes", "sound": "a.png"}, "it has media in sound, and the run takes image"),
        ({"answer": "yes"}, "its question cannot be put"),
    ],
)
def test_rows_that_cannot_be_known(tmp_path: Path, row: dict[str, Any], sentence: str) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(MmllmError, match=sentence):
        read_known(written(tmp_path, [row]), ["image"])


def test_too_few_questions_are_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mmllm(["calibrate", str(run), written(tmp_path, [{"question": "is it?", "answer": "yes"}])]) == 2
    assert "has 1 predicates" in capsys.readouterr().err and not (run / "decisions.json").exists()
