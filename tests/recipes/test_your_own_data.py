"""Every command of docs/your-own-data.md, in order and in one folder: from a file to a trained and scored model."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from tests.support.places import ROOT
from tests.support.training import finish, start

PAGE = (ROOT / "docs" / "your-own-data.md").read_text(encoding="utf-8")
SHORT = "stages.learn.steps=6"
"""Said to all trainings but the first: the page's point is that each layout trains."""
FOUND = {
    "llava": "200 rows, LLaVA conversations (a JSON array)",
    "parquet": "200 rows, questions and answers (Parquet)",
    "folder": "200 rows, questions and answers (a folder of media with metadata)",
    "dataset": "200 rows, questions and answers (a Hugging Face dataset)",
    "shards": "200 rows, questions and answers (WebDataset shards)",
}


def files() -> dict[str, str]:
    """File -> text of the page's blocks that name one."""
    return dict(re.findall(r"^```\w+\n# file: (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def run(command: str, home: Path) -> str:
    """What a command of the page prints there, in a process that has torch and DeepSpeed loaded."""
    log = home / "said.log"
    assert finish(start(typed, shlex.split(command), home, log)) == [0], f"{command}\n{log.read_text()}"
    return log.read_text()


def typed(words: list[str], home: Path, log: Path) -> None:
    from mmllm.cli import main

    os.chdir(home)
    os.environ |= {"HF_DATASETS_CACHE": str(home / "cache"), "HF_HUB_OFFLINE": "1"}
    with log.open("w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        if words[0] == "python":
            runpy.run_path(words[1], run_name="__main__")
        else:
            sys.exit(main(words[1:]))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_command(tmp_path: Path) -> None:
    for name, text in files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    said = {}
    for number, command in enumerate(commands()):
        short = " train " in command and number > 2
        said[command] = run(f"{command} {SHORT}" if short else command, tmp_path)
    trained = {shlex.split(words)[-1].removeprefix("runs/"): text for words, text in said.items() if " train " in words}
    assert list(trained) == list(FOUND)
    for name, found in FOUND.items():
        assert f"data.mine: {found}" in trained[name]
        entry = json.loads((tmp_path / "runs" / name / "results.json").read_text())["benchmarks"]["qa"]
        assert entry["n"] == 40
    first = json.loads((tmp_path / "runs" / "llava" / "results.json").read_text())["benchmarks"]["qa"]
    assert first["score"] > 0.5  # four colours: guessed is 0.25


def test_the_page_names_every_form_container_and_box() -> None:
    from mmllm.datasets.boxes import FORMS as BOXES
    from mmllm.datasets.forms import FORMS

    for name in (*FORMS, *BOXES):
        assert f"`{name}`" in PAGE, name
    for ending in (".jsonl", ".csv", ".tsv", ".parquet", ".tar"):
        assert ending in PAGE
