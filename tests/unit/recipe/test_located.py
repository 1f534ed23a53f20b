"""Where a recipe's relative paths lead: beside the recipe, or from the current folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmllm.recipe.located import locate


@pytest.mark.parametrize("value", ["rows.jsonl", "part-*.json", "shards/{000..001}.tar"])
@pytest.mark.parametrize("beside", [True, False])
def test_what_is_there_decides(value: str, beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    own = here / "recipes"
    own.mkdir(parents=True)
    monkeypatch.chdir(here)
    file = (own if beside else here) / value.replace("*", "00").replace("{000..001}", "000")
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    data = {"data": {"mine": {"type": "chat", "path": value}}}
    said = locate(data, [own])
    assert data["data"]["mine"]["path"] == (f"recipes/{value}" if beside else value)
    assert said == ([f"data.mine.path is recipes/{value}"] if beside else [])


def test_what_is_nowhere_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"llm": {"path": "owner/name"}, "data": {"far": {"type": "chat", "path": "hf://datasets/owner/*"}}}
    assert locate(data, [tmp_path / "recipes"]) == []
    assert data["llm"]["path"] == "owner/name" and data["data"]["far"]["path"] == "hf://datasets/owner/*"


def test_what_lies_in_the_run_one_starts_from_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copied recipe of an imported run names the chat template that the import wrote into it."""
    (tmp_path / "run" / "stages").mkdir(parents=True)
    (tmp_path / "run" / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    for start in (str(tmp_path / "run"), "../run"):
        for said in (start, {"path": start}):
            data = {"llm": {"path": "x/y", "template": "chat_template.jinja"}, "start": said}
            locate(data, [tmp_path / "mine"])
            assert (tmp_path / "mine" / data["llm"]["template"]).resolve() == tmp_path / "run" / "chat_template.jinja"
            assert data["llm"]["path"] == "x/y"
