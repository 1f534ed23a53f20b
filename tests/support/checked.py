"""A folder with all that a small recipe names, and what `mmllm check` prints there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mmllm.cli import main

RECIPE = """\
llm: {path: data/mini/lm, context: 512}
encoders:
  image: {type: open_clip, model: data/mini/clip, layers: [-1]}
connectors:
  image: {type: pool, from: image, grid: [4, 4]}
  lora: {type: lora, rank: 4}
data:
  captions: {type: chat, path: rows.jsonl}
stages:
  align:
    train: {connectors.image: 1.0e-3}
    data: {captions: 1.0}
    steps: 2
    batch: 2
eval: {benchmarks: {qa_json: {path: questions.json}}}
"""
"""The miniature parts are not in the folder: ``mmllm train`` would place them."""


def write(folder: Path, recipe: str = RECIPE) -> None:
    """Write recipe, rows, pictures and questions."""
    (folder / "my.yaml").write_text(recipe)
    with (folder / "rows.jsonl").open("w") as rows:
        for number in range(5):
            Image.new("RGB", (8, 8), (number * 40, 0, 0)).save(folder / f"{number}.png")
            turns = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "Red."}]
            rows.write(json.dumps({"messages": turns, "image": [f"{number}.png"]}) + "\n")
    question = {"question": "What colour?", "answer": "red", "image": "1.png"}
    (folder / "questions.json").write_text(json.dumps([question]))


class Checked:
    """Runs `mmllm check my.yaml` in a folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.out, self.err = "", ""

    def __call__(self, *arguments: str) -> int:
        """Exit code; what was printed is kept."""
        self._capsys.readouterr()
        code = main(["check", "my.yaml", *arguments])
        self.out, self.err = self._capsys.readouterr()
        return code

    def change(self, old: str, new: str) -> None:
        """Replace a text of the recipe that is in it once."""
        text = (self.folder / "my.yaml").read_text()
        assert text.count(old) == 1, old
        (self.folder / "my.yaml").write_text(text.replace(old, new))

    def sentence(self, *arguments: str) -> str:
        """The one error that there is, without what stands in front of it and the count behind."""
        assert self(*arguments) == 2, self.out
        errors = [line for line in self.err.splitlines() if not line.startswith("mmllm: warning: ")]
        assert len(errors) == 2, self.err
        assert errors[1] == f"mmllm: my.yaml: 1 error; relative paths start beside the recipe or in {self.folder}."
        return errors[0].removeprefix("mmllm: ")
