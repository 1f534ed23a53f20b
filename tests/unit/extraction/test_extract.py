"""``mmllm extract`` with a miniature run: lines, what a stopped one goes on with, errors, scores."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mmllm.cli import main
from mmllm.errors import MmllmError
from mmllm.extraction.extract import CUT, NO_LAYER, UNREADABLE, Extractor, Settings
from mmllm.extraction.run import Truth, extract, files_of
from mmllm.generation.model import Model
from mmllm.miniature.world.documents import document
from mmllm.miniature.world.render import draw_document
from tests.support.short_runs import ROOT

RUN = ROOT / "tests" / "fixtures" / "old_runs" / "pool_lora"
TEXT = {"type": "string", "maxLength": 12}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["receipt", "form", "table", "chart"]},
        "first": {"type": "object", "properties": {"key": TEXT, "n": {"type": "integer"}}, "required": ["key", "n"]},
    },
    "required": ["kind", "first"],
}


@pytest.fixture(scope="module")
def model() -> Model:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return Model.open(RUN)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six documents with their fields and a text layer, a file that is no picture."""
    folder, rng = tmp_path_factory.mktemp("documents"), Random(3)
    (folder / "layer").mkdir()
    for number in range(6):
        kind, rows = document(rng, False)
        draw_document(rng, kind, rows).save(folder / f"{number}.png")
        fields = {"kind": kind, "first": {"key": rows[0][0], "n": number}}
        (folder / f"{number}.json").write_text(json.dumps(fields))
        layer = [{"text": kind, "box": [0, 0, 16, 8]}, {"text": str(number), "box": [32, 32, 64, 64]}]
        (folder / "layer" / f"{number}.json").write_text(json.dumps(layer))
    (folder / "broken").mkdir()
    (folder / "broken" / "7.png").write_bytes(b"no picture")
    return folder


def settings(**more: Any) -> Settings:
    return Settings(SCHEMA, ask="what is in it?", limit=60, **more)


def test_lines_are_whole_alike_in_any_batch_and_kept(model: Model, documents: Path, tmp_path: Path) -> None:
    files, out = files_of([documents]), tmp_path / "lines.jsonl"
    asked = settings(examples=documents, text_layer=documents / "layer")
    told: list[str] = []
    alone = extract(model, files, asked, batch=1, say=told.append)
    first = extract(model, files[:4], asked, batch=4, out=out)
    for number, line in enumerate(alone):
        assert line.error is None and line.fields is not None
        assert json.loads(told[number])["value"] == line.value
        assert line.value["kind"] in SCHEMA["properties"]["kind"]["enum"]
        assert line.fields.keys() == {"/kind", "/first/key", "/first/n"}
        assert all(0 < entry["probability"] <= 1 for entry in line.fields.values())
        truth = json.loads((documents / f"{number}.json").read_text())
        said_kind = line.value["kind"] == truth["kind"]
        assert line.fields["/kind"]["boxes"] == ([[0, 0, 0.25, 0.125]] if said_kind else [])
        assert line.example is not None and line.example != line.file
    assert [line.value for line in first] == [line.value for line in alone[:4]]
    # killed in the middle of a line: what is whole is kept as it stands, the rest is read
    lines = out.read_text().splitlines(keepends=True)
    marked = lines[0].replace('"key": "', '"key": "', 1).replace(str(first[0].example), "kept.png")
    out.write_text(marked + lines[1] + lines[2][:40])
    later = extract(model, files, asked, batch=4, out=out)
    assert [line.value for line in later] == [line.value for line in alone]
    assert later[0].example == "kept.png"
    assert [json.loads(line)["file"] for line in out.read_text().splitlines()] == list(map(str, files))
    # a part of them leaves the others, and other settings leave all
    written = out.read_text()
    assert extract(model, files[:2], asked, out=out) == later[:2] and out.read_text() == written
    with pytest.raises(MmllmError, match="line 1 is of another model, schema"):
        extract(model, files[:2], settings(), out=out)
    assert out.read_text() == written


def test_a_document_that_fails_has_a_line_that_says_why(model: Model, documents: Path) -> None:
    files = [documents / "0.png", documents / "broken" / "7.png"]
    read, broken = extract(model, files, settings(text_layer=documents / "broken"))
    assert (read.value, read.error and read.error["code"]) == (None, NO_LAYER)
    assert (broken.value, broken.error and broken.error["code"]) == (None, UNREADABLE)
    (cut,) = extract(model, files[:1], Settings(SCHEMA, ask="what?", limit=6))
    assert cut.value is None and cut.fields is None
    assert cut.error is not None and cut.error["code"] == CUT and "6 tokens" in cut.error["message"]
    assert Truth(documents, files[:1]).score([cut]) == {
        "field_f1": 0.0, "precision": 0.0, "recall": 0.0, "f1_of_a_document": 0.0,
    }  # fmt: skip


def test_repetition_inside_a_value_ends(model: Model, documents: Path) -> None:
    """Whatever the weights: the longest text and number are bounded, so an object of them is whole within a limit."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "n": {"type": "number"}},
        "required": ["a", "n"],
    }
    grammar = Extractor(model, Settings(schema)).grammar
    encode = model.generator.llm.tokenizer.encode

    def accepts(text: str) -> bool:
        return grammar.accepts(encode(text, add_special_tokens=False))

    assert accepts('{"a": "%s", "n": -12.5}' % ("0" * 256))
    assert not accepts('{"a": "%s", "n": 1}' % ("0" * 257))
    assert accepts('{"a": "", "n": 123456789012345.5}')
    assert not accepts('{"a": "", "n": 1%s}' % ("0" * 16))
    assert not accepts('{"a": "", "n": 0.%s1}' % ("0" * 6))


def test_the_run_is_asked_for_boxes(model: Model, documents: Path) -> None:
    (line,) = extract(model, [documents / "1.png"], settings(locate="where is the {value}?", box_scale=100.0))
    assert line.fields is not None
    for entry in line.fields.values():
        assert all(0 <= side <= 1 for box in entry["boxes"] for side in box) and len(entry["boxes"]) <= 1


def test_examples_must_follow_the_schema(model: Model, documents: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes((documents / "0.png").read_bytes())
    (tmp_path / "a.json").write_text('{"kind": "letter", "first": {"key": "x", "n": 1}}')
    with pytest.raises(MmllmError, match=r"a\.png do not follow the schema"):
        Extractor(model, settings(examples=tmp_path))


def test_the_command(documents: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    command = ["extract", str(RUN), str(documents / "0.png"), "--schema", str(tmp_path / "schema.json")]
    assert main([*command, "--score", str(documents / "layer")]) == 2
    assert "holds no picture" in capsys.readouterr().err
    assert main([*command, "--ask", "what?", "--score", str(documents), "eval.batch=2"]) == 0
    found = capsys.readouterr()
    assert json.loads(found.out)["error"] is None and "field_f1" in found.err
    assert main([*command, "--max-new-tokens", "3"]) == 2
    found = capsys.readouterr()
    assert json.loads(found.out)["error"]["code"] == CUT
    assert "1 of 1 documents have an error, which their lines name: cut_at_limit 1." in found.err
