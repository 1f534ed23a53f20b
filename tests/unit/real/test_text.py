"""A run's text beside its bare LLM, what is kept of its results, and its weights as files of the repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from docs.write import real as tables
from mmllm.checkpoints.load import load_run
from mmllm.errors import MmllmError
from mmllm.evaluation.run import evaluate
from mmllm.real import text
from mmllm.real.publishing import publish
from mmllm.real.results import keep
from mmllm.real.run import TEXTS, write_json
from tests.support.training import tiny_recipe, train_here


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer and shorter texts: the tiny LLM has a context of 128 letters."""
    monkeypatch.setattr(text, "PROMPTS", text.PROMPTS[:2])
    monkeypatch.setattr(text, "TEXT", "It rains.")
    monkeypatch.setattr(text, "NEW_TOKENS", 3)


@pytest.fixture(scope="module", params=[True, False], ids=["waits", "always"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool]:
    """A run of two steps whose LoRA waits for pictures, or does not."""
    folder = tmp_path_factory.mktemp("text")
    rows = [{"question": "What?", "answer": "A circle.", "image": f"{n}.png", "kind": "shape"} for n in range(3)]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["connectors.lora.when=[image]"] if request.param else []
    words.append(f"eval.benchmarks={{easy_vqa: {{type: qa, path: {folder}/asked.jsonl}}}}")
    recipe = tiny_recipe(folder, steps=1)
    train_here(
        recipe, folder / "run", ["stages.instruct.train={connectors.lora: 0.1}", "eval.max_new_tokens=2", *words]
    )
    return folder / "run", bool(request.param)


def test_a_lora_that_waits_for_media_leaves_text_as_it_is(run: tuple[Path, bool]) -> None:
    folder, waits = run
    found = text.compare_text(folder)
    assert found["equal"] is waits and len(found["prompts"]) == 2
    assert (found["perplexity"] == found["perplexity_bare"]) is waits
    assert all(row["logits_equal"] is waits for row in found["prompts"])
    assert (found["furthest_from_transformers"] < 1e-4) is waits


def test_what_is_kept_fills_the_tables(run: tuple[Path, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, waits = run
    with pytest.raises(MmllmError, match="a name is letters"):
        keep(folder, "../a", tmp_path)
    if not waits:
        with pytest.raises(MmllmError, match="has no results"):
            keep(folder, "real.seed-0", tmp_path)
        return
    results = evaluate(folder, blind=True)["benchmarks"]["easy_vqa"]
    write_json(folder / TEXTS, text.compare_text(folder))
    keep(folder, "real.seed-0", tmp_path, tmp_path / "pictures")
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    row = next(line for line in tables.scores().splitlines() if "shape" in line)
    assert f"| {results['score']:.3f} | 1 (0) | 3 | {results['blind']:.3f} |" in row
    assert "equal to the last bit" in tables.text()
    assert (
        tables.samples().count("](pictures/real/easy_vqa-") == 3 and len(list((tmp_path / "pictures").iterdir())) == 3
    )
    assert "instruct: 1 steps, 4 conversations" in tables.machine()
    published = publish(folder, tmp_path)  # whose folder has no metrics: what is known of its stages stays
    shutil.copy(folder / "results.json", published)
    keep(published, "real.seed-0", tmp_path)
    assert "instruct: 1 steps, 4 conversations" in tables.machine()


def test_published_weights_open_as_the_run(run: tuple[Path, bool], tmp_path: Path) -> None:
    folder, _ = run
    published = publish(folder, tmp_path)
    files = {path.name for path in published.rglob("*") if path.is_file()}
    assert files == {"recipe.yaml", "learned.safetensors", "manifest.json", "latest"}
    ours, theirs = (load_run(one)[1].state_dict() for one in (folder, published))
    assert all(tensor.equal(theirs[name]) for name, tensor in ours.items())
    said = (tmp_path / "README.md").read_text()
    assert "`encoders.image` | `" in said and "Apache-2.0" in said and "CC BY-SA 4.0" in said
    publish(folder, tmp_path)  # once more, over what is there
