"""`mmllm certify`: a certificate is written, made again and compared; a changed one, or another model, is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mmllm.certificates.signing import first_difference, signed
from mmllm.certificates.summary import summary
from mmllm.cli import main
from tests.unit.certificates.conftest import Pair


@pytest.fixture(scope="module", autouse=True)
def certificate(run: Path) -> None:
    """Written once."""
    assert main(["certify", str(run), "--texts", "1", "--seed", "3"]) == 0


def told(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "certificate.json").read_text())
    return found


def test_what_a_certificate_states(pair: Pair, run: Path) -> None:
    found = told(run)
    assert found["text"] == {"verdict": "unchanged", "changes": []}
    assert found["run"]["stage"] == "instruct" and found["run"]["step"] == 1
    assert found["llm"]["loaded_by"].startswith("transformers.AutoModelForCausalLM")
    tensors = load_file(Path(pair.recipe.llm.path) / "model.safetensors")
    tied = {"lm_head.weight"}
    assert found["frozen"]["llm"]["tensors"].keys() == tensors.keys() | tied and "encoders.image" in found["frozen"]
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= found["llm"]["files"].keys()
    assert set(found["equal_to_folder"].values()) == {True}
    (hook, *others) = found["hooks"]
    assert len(others) == 1 and hook["part"] == "connectors.lora" and hook["text"] == "unchanged"
    assert hook["rule"] == "in conversations with image (when)"
    assert found["connectors"]["image"]["rule"] == "outside the LLM, at places of its items"
    assert found["logits"]["seed"] == 3 and all(one["holds"] for one in found["logits"]["ways"])
    assert {"mmllm", "torch", "transformers"} <= found["versions"].keys()
    lines = summary(found)
    assert lines.startswith("**Text without media is answered as by the bare language model, bit for bit.**")
    assert "2 of 2 hooks" in lines and found["digest"] in lines


def test_anyone_can_make_it_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # of another machine, which is said and no difference
    found = told(run)
    threads, found["machine"]["threads"] = found["machine"]["threads"], 77
    (run / "certificate.json").write_text(json.dumps(signed(found)))
    assert main(["certify", str(run), "--check", str(run / "certificate.json")]) == 0
    said = capsys.readouterr().out
    assert f"threads is {threads}, was 77: not compared" in said
    assert said.endswith(f"the same: {run / 'certificate.json'}\n")


def test_another_model_is_told_by_what_first_differs(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # stated of another language model: one weight, one ulp
    found = told(run)
    name = "model.layers.0.mlp.up_proj.weight"
    found["frozen"]["llm"]["tensors"][name] = "0" * 64
    file = tmp_path / "other.json"
    file.write_text(json.dumps(signed(found)))
    assert main(["certify", str(run), "--check", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"does not state what is found of {run}: frozen.llm.tensors.{name} was '0000" in said


def test_a_changed_file_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(run)
    found["text"]["verdict"] = "changed"
    file = tmp_path / "changed.json"
    for text, sentence in (
        (json.dumps(found), "was changed after it was made: its digest is sha256:"),
        ("[]", "is no certificate; make one: mmllm certify RUN"),
        ("{", "cannot be read as a certificate"),
        (json.dumps(signed({**found, "format": 9})), "has format 9, this version of mmllm reads 1"),
    ):
        file.write_text(text)
        assert main(["certify", str(run), "--check", str(file)]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--texts", "-1"], "--texts -1: a number of texts is 0 or more."),
        (["--out", "nowhere/c.json"], "there is no folder nowhere"),
        (["--check", "c.json", "--seed", "1"], "leave --seed out."),
    ],
)
def test_bad_words(words: list[str], sentence: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", str(run), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_where_two_first_differ() -> None:
    one = {"a": {"b": [1, 2]}, "versions": {"torch": "1"}, "machine": {"threads": 1}, "digest": "x"}
    assert first_difference(one, {**one, "versions": {}, "machine": {}, "digest": "y"}) is None
    assert first_difference(one, {**one, "a": {"b": [1, 3]}}) == "a.b[1] was 2, and is 3"
    assert first_difference(one, {**one, "a": {"b": [1]}}) == "a.b had 2 entries, and has 1"
    assert first_difference(one, {**one, "a": {}}) == "a.b was there, and is not"
    assert first_difference({**one, "a": {}}, one) == "a.b was not there, and is"
