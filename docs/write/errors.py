"""Ten mistakes in a recipe and what ``mmllm check`` says of each; the command itself is run."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmllm import cli
from mmllm.recipe.files import shipped_root

FILE = "my.yaml"
GOOD = """\
llm: {path: data/mini/lm, context: 512}
encoders:
  image: {type: open_clip, model: data/mini/clip, layers: [-1]}
connectors:
  image: {type: pool, from: image, grid: [4, 4], norm: true}
  lora: {type: lora, rank: 16}
data:
  captions: {type: chat_jsonl, path: data/mini/fixtures/captions.jsonl}
stages:
  align:
    train: {connectors.image: 1.0e-3}
    data: {captions: 1.0}
    epochs: 1
    batch: 8
"""
"""A recipe without a mistake."""


@dataclass(frozen=True)
class Mistake:
    """One line of ``GOOD`` changed, and how to mend it."""

    title: str
    right: str
    wrong: str
    cure: str


MISTAKES = (
    Mistake("A word that does not exist", "    batch: 8", "    batch_size: 8", "Write the word it offers."),
    Mistake(
        "A key twice",
        "    epochs: 1",
        "    epochs: 1\n    epochs: 2",
        "Keep one. YAML alone would take the last without a word.",
    ),
    Mistake("A number that YAML reads as text", "1.0e-3", "1e-3", "YAML wants a dot in numbers with an exponent."),
    Mistake("Another type of value", "    batch: 8", '    batch: "8"', "Take the quotes away."),
    Mistake("A part that does not exist", "type: pool", "type: pol", "`mmllm ls connectors` lists all of them."),
    Mistake(
        "An argument that the part has not",
        "norm: true",
        "norms: true",
        "The arguments of every part are in [parts](parts.md).",
    ),
    Mistake(
        "An encoder that nothing reads",
        "from: image",
        "from: picture",
        "`from` is a key under `encoders:`. Every encoder needs a connector.",
    ),
    Mistake(
        "A trained part that is not there",
        "connectors.image: 1.0e-3",
        "connectors.imgae: 1.0e-3",
        "`train` names `llm`, `encoders.<key>` or `connectors.<key>`, or something inside one of them.",
    ),
    Mistake("Two lengths of a stage", "    epochs: 1", "    epochs: 1\n    steps: 100", "Keep one of the two."),
    Mistake(
        "Micro-batches that do not make up the batch",
        "    batch: 8",
        "    batch: 8\n    micro_batch: 3",
        "Choose a divisor of `batch`. Accumulation is computed from both.",
    ),
)


def errors() -> str:
    """The recipe, then each mistake: the changed line, what the command prints, the cure."""
    shown = [f"```yaml\n{GOOD}```", "`mmllm check my.yaml` says of it:", f"```text\n{said(GOOD)}\n```"]
    for number, one in enumerate(MISTAKES, 1):
        assert GOOD.count(one.right) == 1, one.right
        text = GOOD.replace(one.right, one.wrong)
        line = "\n".join(new for new in text.splitlines() if new not in GOOD.splitlines())
        shown.append(f"**{number}. {one.title}**")
        shown.append(f"```yaml\n{line}\n```\n\n```text\n{said(text)}\n```\n\n{one.cure}")
    return "\n\n".join(shown)


def said(text: str) -> str:
    """What ``mmllm check my.yaml`` prints of a recipe."""
    with tempfile.TemporaryDirectory() as folder, _inside(Path(folder)):
        Path(FILE).write_text(text, encoding="utf-8")
        Path("data").symlink_to(shipped_root() / "data")  # what the recipe names is there
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            cli.main(["check", FILE])
    return out.getvalue().strip()


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Stand in a folder for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
