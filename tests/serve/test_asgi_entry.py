"""The ASGI entry that is deployed: which run it serves, and what it says where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve.app import RUN, app


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """What a call says that ends with exit code 2."""
    with pytest.raises(SystemExit) as caught:
        app()
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_without_a_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(RUN, raising=False)
    assert refusal(capsys) == "mmllm: MMLLM_RUN is not set; set it to a run folder, e.g. MMLLM_RUN=runs/demo\n"


def test_a_folder_that_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(RUN, str(tmp_path))
    assert refusal(capsys).startswith(f"mmllm: {tmp_path} is no run folder")
