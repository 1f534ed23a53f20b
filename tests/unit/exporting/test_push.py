"""`mmllm push`: what reaches the hub opens there, tells what it is made of, and names no place of this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import mmllm
from mmllm.cli import main
from mmllm.errors import MmllmError
from mmllm.exporting.export import export_run
from mmllm.exporting.push import push
from mmllm.published.media.pictures import picture
from tests.support.hub import Hub, local_hub
from tests.support.training import finish, start, tiny_recipe, train_here


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with scores, whose LLM's folder states a licence."""
    folder = tmp_path_factory.mktemp("pushed")
    assert finish(start(train_here, tiny_recipe(folder, steps=2), folder / "run")) == [0]
    (folder / "tiny-llama-0" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    row = {"question": "What is it?", "answer": "a circle", "image": "0.png"}
    (folder / "questions.json").write_text(json.dumps([row, {**row, "image": "1.png"}]))
    mmllm.evaluate(folder / "run", {"qa_json": {"path": str(folder)}})
    return folder / "run"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub of this machine."""
    with local_hub(monkeypatch) as found:
        yield found


def test_a_run_that_was_pushed_answers_elsewhere(run: Path, hub: Hub, tmp_path: Path) -> None:
    assert main(["push", str(run), "somebody/tiny", "--private"]) == 0
    assert [(one["organization"], one["name"], one["visibility"]) for one in hub.made] == [
        ("somebody", "tiny", "private")
    ]
    for name, content in hub.files.items():
        assert str(run.parent).encode() not in content, name
    there = hub.save(tmp_path / "there")
    parts = [
        f"llm.path={run.parent / 'tiny-llama-0'}",
        f"encoders.image.model={run.parent / 'tiny-clip-0'}",
    ]
    given = {"image": picture(40, 30), "max_new_tokens": 6}
    assert mmllm.load(there, overrides=parts).chat("What?", **given) == mmllm.load(run).chat("What?", **given)
    assert not list(there.rglob("*optimizer*")) and not list(there.rglob("state*.json")), "training's own state"


def test_the_card_tells_what_the_run_knows(run: Path, hub: Hub) -> None:
    push(run, "somebody/tiny")
    text = hub.files["README.md"].decode()
    words = yaml.safe_load(text.split("---\n")[1])
    assert words["library_name"] == "mmllm" and words["tags"] == ["mmllm", "image"] and "base_model" not in words
    frozen = json.loads(next(run.glob("stages/*/step-*/manifest.json")).read_text())["frozen"]
    assert f"| llm | tiny-llama-0 | apache-2.0 | `{frozen['llm']}` |" in text
    assert "| encoders.image | tiny-clip-0 | not stated |" in text and "| pictures | chat_jsonl |" in text
    score = json.loads((run / "results.json").read_text())["benchmarks"]["qa_json"]["score"]
    assert f"| qa_json | exact_match | {score:.3f} |" in text and "| learned tensors | equal |" in text
    assert 'mmllm.load("somebody/tiny")' in text


def test_scores_of_other_weights_are_left_out(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    results["digests"]["connectors.image"] = "0" * 64
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    export_run(tmp_path / "run", "run", tmp_path / "out")
    assert "None were measured on these weights" in (tmp_path / "out" / "README.md").read_text()


def test_what_was_exported_is_pushed_as_it_was_compared(run: Path, hub: Hub, tmp_path: Path) -> None:
    export_run(run, "hf", tmp_path / "hf")
    push(tmp_path / "hf", "somebody/llava")
    assert {"config.json", "model.safetensors", "README.md", "mmllm_export.json"} <= hub.files.keys()
    assert "pipeline_tag: image-text-to-text" in hub.files["README.md"].decode()
    with pytest.raises(MmllmError, match="was exported with --to hf; give the run, to export it with --to llm"):
        push(tmp_path / "hf", "somebody/llava", "llm")
    hub.made.clear()
    path = tmp_path / "hf" / "config.json"
    path.write_text(path.read_text().replace('"gelu"', '"relu"', 1))
    with pytest.raises(MmllmError, match=r"config\.json is not what was compared with the run"):
        push(tmp_path / "hf", "somebody/llava")
    assert not hub.made


# peft 0.21 asks transformers 5.23 for a property that it calls deprecated
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_places_and_names_that_are_of_no_use_elsewhere_stop_it(run: Path, hub: Hub, tmp_path: Path) -> None:
    export_run(run, "peft", tmp_path / "peft")
    for given, form in ((run, "peft"), (tmp_path / "peft", None)):
        with pytest.raises(MmllmError, match=r"adapter_config\.json names .*tiny-llama-0, a place of this machine"):
            push(given, "somebody/lora", form)
    with pytest.raises(MmllmError, match="tiny has no owner; give user/name"):
        push(run, "tiny")
    with pytest.raises(MmllmError, match="no name that the hub takes"):
        push(run, "some body/tiny")
    assert not hub.made and not hub.files


def test_a_hub_that_refuses_is_one_sentence(run: Path, hub: Hub) -> None:
    hub.refuses = True
    with pytest.raises(MmllmError, match=r"somebody/tiny: the hub did not take it \(HfHubHTTPError: .*hf auth login"):
        push(run, "somebody/tiny")
