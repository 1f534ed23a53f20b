"""Writes the certificate of a run, and makes one again to compare it with what a file states."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmllm.certificates.certificate import FORMAT, TEXTS, certify
from mmllm.certificates.signing import first_difference, read
from mmllm.certificates.summary import summary
from mmllm.checkpoints.load import Trust
from mmllm.checkpoints.store import replace_text
from mmllm.errors import MmllmError

FILE = "certificate.json"
"""Its name beside an export, and in a run's folder."""


def write_certificate(
    run: Path,
    file: Path,
    *,
    texts: int = TEXTS,
    seed: int = 0,
    trust: Trust | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Certify a run as ``certify`` does, and write what was found; ``say`` is told a summary.

    Raises:
        MmllmError: the run cannot be opened, the file's folder is not there, or a number of texts is negative.
    """
    if texts < 0:
        raise MmllmError(f"--texts {texts}: a number of texts is 0 or more.")
    if not file.parent.is_dir():
        raise MmllmError(f"--out {file}: there is no folder {file.parent}; make it, or write elsewhere.")
    found = certify(run, texts=texts, seed=seed, trust=trust)
    say(summary(found))
    replace_text(file, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found


def check_certificate(run: Path, file: Path, *, trust: Trust | None = None) -> list[str]:
    """Make a certificate again as it says it was made; what is another machine's or library's, in sentences.

    Raises:
        MmllmError: it was changed after it was made, or states something else than is found; says what first.
    """
    told = read(file)
    if told["format"] != FORMAT:
        raise MmllmError(f"{file} has format {told['format']}, this version of mmllm reads {FORMAT}; make it anew")
    found = certify(run, texts=told["logits"]["drawn"], seed=told["logits"]["seed"], trust=trust)
    notes = [
        f"{word} is {found[place].get(word)}, was {value}: not compared"
        for place in ("versions", "machine")
        for word, value in told[place].items()
        if isinstance(value, str | int) and found[place].get(word) != value
    ]
    said = first_difference(told, found)
    if said is not None:
        aside = f" ({'; '.join(notes)})" if notes else ""
        raise MmllmError(f"{file} does not state what is found of {run}: {said}{aside}")
    return notes
