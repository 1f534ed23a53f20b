"""The page about a run: everything that its folder says is on it, and nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from mmllm.checkpoints.store import Manifest, commit
from mmllm.cli import main
from mmllm.evaluation.predictions import Prediction, _line
from mmllm.recipe.load import load_recipe
from mmllm.reporting.asked import asked
from mmllm.reporting.curves import curve
from mmllm.reporting.gallery import article
from mmllm.reporting.media import thumbnail
from tests.support.checked import RECIPE


class Page(HTMLParser):
    """Texts, sources of pictures and addresses of a page; every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        assert tag not in ("script", "link", "iframe")
        found = dict(attrs)
        self.sources += [found["src"]] if "src" in found else []
        self.links += [found["href"]] if "href" in found else []


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that trained two steps and was scored."""
    import torch

    folder = tmp_path / "run"
    Image.new("RGB", (64, 48), "red").save(tmp_path / "1.png")
    rows = [
        {"id": n, "question": f"What <b>{n}</b>?", "answer": "red", "image": "1.png", "kind": "colour"}
        for n in range(3)
    ]
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    recipe = yaml.safe_load(RECIPE) | {"name": "signs"}
    recipe["eval"] = {"benchmarks": {"mine": {"type": "qa", "path": str(tmp_path / "questions.json")}}}
    head = Manifest("align", 2, True, 1, "0", {})
    commit(
        folder / "stages" / "align", head, {"learned.safetensors": {"connectors.image.w": torch.zeros(3, 4)}}, keep=1
    )
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    steps = [
        {"stage": "align", "step": n, "loss": 4.0 - n, "lr": {"connectors.image": 1e-3}, "tokens": 100, "samples": 2,
         "bad": 0, "seconds": 0.5, "tokens_per_second": 200.0}
        for n in (1, 2, 2)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps) + '{"stage": "al')
    entry = {"metric": "exact_match", "variant": None, "score": 1 / 3, "n": 3, "interval": [0.06, 0.8], "blind": 0.25}
    kind = {"score": 1 / 3, "n": 3, "interval": [0.06, 0.8], "blind": 0.25, "rule": 0.4}
    entry |= {"kinds": {"colour": kind}, "unparsed": 1, "key": "k", "rule": {"rule": "majority", "score": 0.5}}
    machine = {"platform": "Linux", "device": "cpu", "torch": "2"}
    results = {"checkpoint": "ab" * 32, "machine": machine, "benchmarks": {"mine": entry}}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "predictions").mkdir()
    said = [("red", 1.0, None), ("<i>blue</i>", 0.0, None), ("", 0.0, "too long")]
    lines = [
        Prediction(
            f"mine:{n}",
            f"What <b>{n}</b>?",
            text,
            ["red"],
            score,
            bool(text),
            "colour",
            error,
            "k",
            confidence=None if error else 0.75 + n / 10,
        )
        for n, (text, score, error) in enumerate(said)
    ]
    (folder / "predictions" / "mine.jsonl").write_text("".join(map(_line, lines)))
    assert load_recipe(folder / "recipe.yaml").name == "signs"
    return folder


def test_the_page_says_what_the_folder_says(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert "report.html: signs, stage align, step 2; mine (" in capsys.readouterr().out
    page = Page((run / "report.html").read_text())
    text = " ".join(page.texts)
    for said in ("signs", "stage align, step 2", "connectors.image", "12", "frozen", "2 steps, 4 samples, 200 tokens"):
        assert said in text, said
    assert "loss: 3 at step 1, 2 at step 2" in text
    for number in ("0.333", "0.060 to 0.800", "0.250", "0.500", "0.400"):
        assert number in text, number
    assert "Wrong: 2 of 3" in text and "Right: 1 of 3" in text and "could not be asked: too long" in text
    # what data and models write is text
    assert "What <b>1</b>?" in text and "<i>blue</i>" in text
    # most sure first: the wrong answer of which the model was surer stands there once more
    assert "Wrong, and most sure of it" in text and "sure: 0.85" in text
    assert len(page.sources) == 4 and all(one.startswith("data:image/jpeg;base64,") for one in page.sources)
    assert page.links == []


def test_media_that_are_gone_and_a_run_without_scores(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run.parent / "1.png").unlink()
    assert main(["report", str(run), "--out", str(run / "other.html")]) == 0
    assert Page((run / "other.html").read_text()).sources == []
    for name in ("results.json", "metrics.jsonl"):
        (run / name).unlink()
    assert main(["report", str(run)]) == 0
    assert "not scored yet: `mmllm eval` does" in capsys.readouterr().out
    assert main(["report", str(run), "--out", str(run / "no" / "where.html")]) == 2
    assert "the page cannot be written" in capsys.readouterr().err


def test_items_are_shown_small(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 100), "blue").save(tmp_path / "wide.png")
    assert thumbnail("image", tmp_path / "wide.png").startswith("<img alt=")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert thumbnail("image", tmp_path / "broken.png") == "<small>image not shown: UnidentifiedImageError</small>"
    assert thumbnail("graph", tmp_path / "a.npz#3") == "<small>graph</small>"


def test_boxes_are_drawn_where_they_were_said(tmp_path: Path) -> None:
    """The one that is wanted and what the model said, in colours of their own, on the picture the question is about."""
    Image.new("RGB", (100, 100), "white").save(tmp_path / "page.png")
    row = {"id": 1, "question": "Where?", "answer": [0.1, 0.1, 0.4, 0.4], "image": "page.png"}
    (tmp_path / "boxes.json").write_text(json.dumps([row]))
    entry = {"type": "qa", "path": str(tmp_path / "boxes.json"), "metric": "iou@0.5"}
    known = asked({"boxes": entry}, {"boxes": ["boxes:1"]})["boxes"]
    said = [
        Prediction("boxes:1", "Where?", text, [0.1, 0.1, 0.4, 0.4], 0.0, True, "", None, "k")
        for text in ("it is at [0.5, 0.5, 0.9, 0.9]", "[0.95, 0.2, 1.4, 0.05]")
    ]
    one, both = article(known, said[:1]), article(known, said, ("A", "B"))
    assert "green: wanted; red: said" in one and "green: wanted; red,blue: said" in both and "A: <strong>" in both
    (source,) = Page(both).sources
    picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")
    places = {"green": (10, 25), "red": (50, 70), "blue": (97, 5)}
    for colour, place in places.items():
        red, green, blue = picture.getpixel(place)  # type: ignore[misc]
        assert (
            {"green": green, "red": red, "blue": blue}[colour] == max(red, green, blue) > min(red, green, blue) + 40
        ), colour
    assert Page(article(None, said)).sources == [] and "it is at" in article(None, said)


def test_a_curve_leaves_out_what_is_no_number() -> None:
    drawn = curve("loss", range(1, 2001), [float("nan"), *(1 / n for n in range(1, 2000))])  # type: ignore[arg-type]
    assert drawn.count(",") < 700 and "loss: 1 at step 2, 0.0005003 at step 2000" in drawn
    assert curve("loss", [1], [1.0]) == ""


def test_two_runs_on_a_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = run.parent / "other"
    (other / "predictions").mkdir(parents=True)
    results = json.loads((run / "results.json").read_text())
    entry = results["benchmarks"]["mine"]
    entry |= {"files": {}, "prompt": "p", "decoding": {}}
    entry["part"] = {"type": "qa", "path": str(run.parent / "questions.json")}
    for folder in (run, other):
        (folder / "results.json").write_text(json.dumps(results))
    answers = (run / "predictions" / "mine.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in answers]
    rows[0] |= {"prediction": "pink", "score": 0.0}
    rows[1] |= {"prediction": "red", "score": 1.0}
    (other / "predictions" / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = run.parent / "both.html"
    assert main(["compare", str(run), str(other), "--html", str(out)]) == 0
    assert "both.html: mine; 2 answers score otherwise" in capsys.readouterr().out
    page = Page(out.read_text())
    text = " ".join(" ".join(page.texts).split())
    for said in ("run and other", "Gained in B: 1", "Lost in B: 1", "colour", "+0.000", "A: <i>blue</i>", "B: red"):
        assert said in text, said
    assert len(page.sources) == 2 and page.links == []  # each flipped question with its picture
    (run.parent / "1.png").unlink()
    assert main(["compare", str(run), str(other), "--html", str(run.parent / "no" / "a.html")]) == 2
    assert "the page cannot be written" in capsys.readouterr().err
