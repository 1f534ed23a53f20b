"""What `mmllm inspect` prints and writes: the terminal, the page, its exit codes, and that text needs no torch."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from mmllm.cli import main
from mmllm.errors import MmllmError
from mmllm.inspection import terminal
from mmllm.inspection.page import page
from mmllm.inspection.report import Report, inspect
from mmllm.inspection.terminal import LEARNED, MEDIA, READ
from mmllm.recipe.load import dump
from tests.support.places import ROOT
from tests.unit.inspection.recipes import ENDINGS, recipe, row, write_media

VOID = {"meta", "br", "img", "line", "rect"}
NASTY = "<script>alert(1)</script> & \x00 \x1b[31m \u200b"


@pytest.fixture(scope="module")
def senses(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("senses")
    write_media(folder)
    rows = [row(**{key: f"{key}.{ending}"}) for key, ending in ENDINGS.items()]
    rows += [row(NASTY), row(image="gone.png"), row("w " * 600)]
    return inspect(recipe(folder, rows), first=len(rows))


class Reader(HTMLParser):
    """Checks that every element is closed in order; keeps pictures, classes of tokens and what would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.sources: list[str] = []
        self.tokens: list[tuple[frozenset[str], str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        named = dict(attrs)
        assert len(named) == len(attrs), f"an attribute stands twice in {tag}"
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        assert not any(name.startswith("on") for name in named)
        if tag not in VOID:
            self.open.append(tag)
        classes = frozenset((named.get("class") or "").split())
        if tag == "span" and "t" in classes and "title" in named | {"title": "" if "media" in classes else None}:
            self.tokens.append((classes - {"t"}, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "span" and self.tokens and not self.tokens[-1][1]:
            self.tokens[-1] = (self.tokens[-1][0], data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_is_well_formed_and_needs_nothing_else(senses: Report) -> None:
    text = page(senses)
    reader = read(text)
    assert not reader.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert reader.sources and all(source.startswith(("data:image/png;base64,", "#")) for source in reader.sources)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", re.sub(r"data:image/png;base64,[^\"]+", "", text))
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
    assert "<script>alert(1)</script>" in "".join(shown for _, shown in reader.tokens)
    assert not re.search("[\x00\x1b\u200b]", text) and "\\x00" in text and "\\u200b" in text


def test_the_page_shows_every_picture(senses: Report) -> None:
    shown = [source for source in read(page(senses)).sources if source.startswith("data:")]
    views = [view for one in senses.entries[0].rows for view in one.views]
    pictures = [picture for view in views for _, picture in view.pictures]
    assert len(shown) == len(pictures) == 7
    for source, picture in zip(shown, pictures, strict=True):
        found = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")
        assert found.tobytes() == picture.tobytes()


def test_the_page_colours_tokens_by_what_they_are(senses: Report) -> None:
    tokens = [token for token in read(page(senses)).tokens if token[0]]
    learned = "".join(text for classes, text in tokens if "learned" in classes)
    assert learned.startswith("learnedred<|end|>red<|end|>")  # the legend, then two rows
    media = [text for classes, text in tokens if "media" in classes and "learned" not in classes]
    others = ["<audio> 1 x 69", "<graph> 1 x 3", "<points> 1 x 1", "<document> 1 x 4"]
    assert media[1:] == ["<image> 1 x 16", *["<video> 1 x 64"] * 3, *others]
    control = [text for classes, text in tokens if "control" in classes]
    assert set(control[1:]) == {"<|user|>", "<|assistant|>", "<|end|>"}


def test_the_terminal_colours_tokens_by_what_they_are(senses: Report) -> None:
    pieces = senses.entries[0].rows[0].pieces
    text = terminal.tokens(pieces, colours=True)
    grounds = {"learned": set(LEARNED), "read": set(READ), "media": set(MEDIA)}
    for piece, span in zip(pieces, text.spans, strict=True):
        kind = "media" if piece.kind == "media" else "learned" if piece.learned else "read"
        assert str(span.style).removesuffix(" bold magenta") in grounds[kind]
        assert str(span.style).endswith("bold magenta") == (piece.kind == "control")
    plain = terminal.tokens(pieces, colours=False).plain
    assert plain == "⟨<|user|>⟩[<image> 1 x 16]↵\nwhat is here?⟨<|end|>⟩⟨<|assistant|>⟩«red⟨<|end|>⟩»"


@pytest.mark.parametrize("colours", ["truecolor", None])
@pytest.mark.parametrize("width", [40, 120])
def test_the_terminal_shows_every_modality(senses: Report, colours: str | None, width: int) -> None:
    file = io.StringIO()
    terminal.show(senses, Console(file=file, force_terminal=colours is not None, color_system=colours, width=width))
    text = re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())
    assert "\x1b" not in text and "\x00" not in text
    assert all(len(line) <= width for line in text.splitlines())
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())
    for expected in ("0.00 s", "0.40 s", "gray; green; blue", "▆", "context 512", "gone.png", "1 row (11.1 %) over"):
        assert expected in words, expected
    assert ("▀" in text) == (colours is not None)


def run(folder: Path, rows: list[dict], *words: str, keys: tuple[str, ...] = ()) -> int:
    (folder / "recipe.yaml").write_text(dump(recipe(folder, rows, keys=keys)))
    return main(["inspect", str(folder / "recipe.yaml"), *words])


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_media(tmp_path)
    rows = [row(image="image.png"), row("blue"), row("green"), row("white")]
    assert run(tmp_path, rows, "--rows", "1", "llm.context=128", keys=("image",)) == 0
    out = capsys.readouterr().out
    assert "context 128" in out and "row 1 · " in out and "row 2 · " not in out and "all 4 rows" in out
    assert run(tmp_path, rows, "--row", "2", "--row", "4", "--data", "rows", keys=("image",)) == 0
    out = capsys.readouterr().out
    assert "row 2 · " in out and "row 4 · " in out and "row 1 · " not in out
    assert run(tmp_path, rows, "--html", str(tmp_path / "page.html"), keys=("image",)) == 0
    assert "page.html: 3 rows of rows" in capsys.readouterr().out
    assert "what is here?" in "".join(text for _, text in read((tmp_path / "page.html").read_text()).tokens)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data", "row"], 'mmllm: the recipe has no data "row"; its data: rows; did you mean "rows"?'),
        (["--row", "9"], "mmllm: there is no row 9 in "),
        (["--rows", "-1"], "mmllm: --rows -1: the number of rows to show is 0 or more"),
        (["data.rows.path=nowhere.jsonl"], "nowhere.jsonl"),
        (["llm.path=no/model/here"], "mmllm: llm.path: the tokenizer of 'no/model/here' cannot be loaded ("),
        (["--html", "/nowhere/at/all.html"], "mmllm: /nowhere/at/all.html: the page cannot be written: "),
        (["llm.contxt=3"], "contxt"),
    ],
)
def test_faults_are_one_sentence(
    tmp_path: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, [row()], *words, keys=("image",)) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and sentence in captured.err and len(captured.err.splitlines()) == 1


def test_a_recipe_without_data_is_one_sentence(tmp_path: Path) -> None:
    made = recipe(tmp_path, [row()], keys=("image",)).model_copy(update={"data": {}, "stages": {}})
    with pytest.raises(MmllmError, match="the recipe senses has no data"):
        inspect(made)


def test_text_needs_no_torch(tmp_path: Path) -> None:
    rows = "".join(json.dumps(row(said)) + "\n" for said in ("red", "blue", "red"))
    (tmp_path / "chat.jsonl").write_text(rows)
    (tmp_path / "recipe.yaml").write_text(
        "llm: {path: data/mini/lm, context: 64}\nconnectors: {lora: {type: lora}}\n"
        f"data: {{rows: {{type: chat_jsonl, path: {tmp_path}/chat.jsonl}}}}\n"
        "stages: {learn: {train: {connectors.lora: 0.001}, data: {rows: 1.0}, steps: 1, batch: 1}}\n"
    )
    code = "import sys; sys.modules['torch'] = None; from mmllm.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "inspect", str(tmp_path / "recipe.yaml"), "--rows", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "⟨<|assistant|>⟩«red⟨<|end|>⟩»" in done.stdout
    assert "1 row (33.3 %) repeat another" in done.stdout
