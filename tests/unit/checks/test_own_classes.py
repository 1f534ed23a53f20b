"""A class of the user's own is imported, which is said before, and held to the contract of its kind, uninstantiated."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import pytest

from mmllm.cli import main
from tests.support.checked import Checked

HEAD = """
from mmllm.connectors.base import EncoderAdapter, LLMAdapter, Projector
from mmllm.connectors.llm_adapters.lora import LoraConnector
from mmllm.datasets.base import Dataset
from mmllm.encoders.base import Encoder
from mmllm.evaluation.benchmarks.base import Benchmark
from mmllm.hooks import Handle
"""


@pytest.fixture
def write_class(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> object:
    """Writes own_part.py beside the recipe."""
    monkeypatch.syspath_prepend(checked.folder)
    monkeypatch.delitem(sys.modules, "own_part", raising=False)

    def write(text: str) -> None:
        Path("own_part.py").write_text(HEAD + textwrap.dedent(text))

    return write


ADAPTERS = {
    "right": ("LoraConnector", "x = 1", ""),
    "right by hand": ("LLMAdapter", "def attach(self, llm):\n    return Handle.of([llm.before_block(0, self.x)])", ""),
    "no attach": ("LLMAdapter", "x = 1", "has no attach of its own, which every LLMAdapter needs; it returns a Handle"),
    "nothing back": (
        "LLMAdapter",
        "def attach(self, llm):\n    llm.blocks",
        'attach of "own_part:Mine" returns nothing;',
    ),
    "two arguments": (
        "LLMAdapter",
        "def attach(self, llm, key):\n    return Handle.of([])",
        "cannot be called with 1 value (",
    ),
    "unknown name": (
        "LLMAdapter",
        "def attach(self, llm):\n    return Handel.of([])",
        "uses the name Handel, which own_part does not",
    ),
    "hook point": (
        "LLMAdapter",
        "def attach(self, llm):\n    return llm.before_blok(0, self.x)",
        'asks llm for before_blok, which is no hook point; did you mean "before_block"?',
    ),
}
"""Name -> (base, body of the class, what is said)."""


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter(name: str, checked: Checked, write_class: object) -> None:
    base, body, said = ADAPTERS[name]
    assert callable(write_class)
    write_class(f"class Mine({base}):\n    '''Own.'''\n" + textwrap.indent(body, "    ") + "\n")
    checked.change("lora: {type: lora, rank: 4}", 'lora: {type: "own_part:Mine"}')
    importing = "mmllm: importing own_part:Mine, a class of another package."
    if not said:
        assert checked() == 0, checked.err
        assert checked.err == importing + "\n"
        return
    assert checked() == 2
    first, error, _ = checked.err.splitlines()
    assert first == importing
    assert error.startswith("mmllm: my.yaml:6: connectors.lora.type: ") and said in error


WORDS = {
    "encoders.image": "type: open_clip, model: data/mini/clip, layers: [-1]",
    "data.captions": "type: chat, path: rows.jsonl",
    "connectors.image": "type: pool, from: image, grid: [4, 4]",
}
"""Section and key -> what the recipe says there."""
OTHERS = {
    "encoder": ("encoders.image", "Encoder", "x = 1", "has no forward of its own, which every Encoder needs"),
    "no encoder": ("encoders.image", "Dataset", "x = 1", "does not derive from Encoder, the base class of encoders"),
    "dataset": ("data.captions", "Dataset", "x = 1", "lacks __getitem__ and __len__, which every Dataset has; write"),
    "half a dataset": (
        "data.captions",
        "Dataset",
        "def __len__(self): return 1",
        "lacks __getitem__, which every Dataset has; write it",
    ),
    "benchmark": ("benchmark", "Benchmark", "x = 1", "lacks __getitem__, __len__ and files, which every Benchmark has"),
    "projector": (
        "connectors.image",
        "Projector",
        "def out_grid(self, grid): return grid",
        "has no forward of its own, which every Projector needs",
    ),
}
"""Name -> (where, base, body, what is said)."""


@pytest.mark.parametrize("name", OTHERS)
def test_a_class_that_is_not_finished(name: str, checked: Checked, write_class: object) -> None:
    where, base, body, said = OTHERS[name]
    assert callable(write_class)
    takes = "def __init__(self, *, dim=0, llm_dim=0): ..." if base == "Projector" else "def __init__(self): ..."
    write_class(f"class Mine({base}):\n    '''Own.'''\n    {takes}\n    {body}\n")
    if where == "benchmark":
        checked.change("{qa_json: {path: questions.json}}", '["own_part:Mine"]')
    else:
        old = WORDS[where]
        source = ", from: image" if where == "connectors.image" else ""
        checked.change(old, f'type: "own_part:Mine"{source}')
    assert checked() == 2
    assert f"{where if where != 'benchmark' else 'eval.benchmarks.own_part:Mine'}" in checked.err
    assert said in checked.err


def test_what_its_module_raises_is_said(checked: Checked, write_class: object) -> None:
    assert callable(write_class)
    write_class("1 / 0\nclass Mine(LoraConnector): ...\n")
    checked.change("lora: {type: lora, rank: 4}", 'lora: {type: "own_part:Mine"}')
    assert checked() == 2
    assert "importing own_part:Mine" in checked.err.splitlines()[0]
    assert "importing own_part fails (ZeroDivisionError: division by zero)" in checked.err


def test_an_own_path_argument_is_looked_for(checked: Checked, write_class: object) -> None:
    """Annotated ``Path``, or a file of weights."""
    assert callable(write_class)
    write_class(
        """
        from pathlib import Path
        class Mine(LoraConnector):
            '''Own.'''
            def __init__(self, *, llm_dim: int, table: Path | None = None, start: str = "") -> None: ...
        """
    )
    checked.change("lora: {type: lora, rank: 4}", 'lora: {type: "own_part:Mine", table: rows.json}')
    assert checked() == 2
    assert 'connectors.lora.table: there is no file or folder "rows.json"; did you mean "rows.jsonl"?' in checked.err
    checked.change("table: rows.json", "start: weights.safetensors")
    assert checked() == 2
    assert 'connectors.lora.start: there is no file or folder "weights.safetensors"' in checked.err


def test_code_that_a_run_names_is_asked_for(checked: Checked, write_class: object) -> None:
    """A run folder from elsewhere imports nothing until it is trusted."""
    assert callable(write_class)
    write_class("open('ran', 'w').close()\nclass Mine(LoraConnector):\n    '''Own.'''\n")
    checked.change("lora: {type: lora, rank: 4}", 'lora: {type: "own_part:Mine"}')
    run = checked.folder / "runs" / "my"
    run.mkdir(parents=True)
    (run / "origin.json").write_text(json.dumps({"folder": str(checked.folder)}))
    (run / "recipe.yaml").write_text((checked.folder / "my.yaml").read_text())
    assert main(["check", "runs/my"]) == 2
    assert not Path("ran").exists()
    assert main(["check", "runs/my", "--trust-code"]) == 0
    assert Path("ran").exists()
