"""A certificate's own digest, and where two certificates first differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmllm.certificates.words import json_digest
from mmllm.errors import MmllmError

ASIDE = ("digest", "versions", "machine")
"""Words of a certificate that may be others on another machine, or with other libraries, and say so by being there."""


def signed(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """The certificate with the sha256 of everything else in it."""
    found = {word: value for word, value in certificate.items() if word != "digest"}
    return {**found, "digest": f"sha256:{json_digest(found)}"}


def read(file: Path) -> dict[str, Any]:
    """A certificate; MmllmError where it cannot be read, or was changed after it was made."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MmllmError(f"{file} cannot be read as a certificate ({error}); make one: mmllm certify RUN") from error
    if not isinstance(found, dict) or "digest" not in found or "text" not in found:
        raise MmllmError(f"{file} is no certificate; make one: mmllm certify RUN")
    wanted = signed(found)["digest"]
    if found["digest"] != wanted:
        raise MmllmError(
            f"{file} was changed after it was made: its digest is {found['digest'][:19]}..., of what it says it would "
            f"be {wanted[:19]}...; take the original, or make it anew"
        )
    return found


def first_difference(told: Any, found: Any, path: str = "") -> str | None:
    """Where two certificates first differ, in one sentence without what belongs to a machine; None: nowhere."""
    if isinstance(told, Mapping) and isinstance(found, Mapping):
        for word in dict.fromkeys([*told, *found]):
            if not path and word in ASIDE:
                continue
            inner = f"{path}.{word}" if path else str(word)
            if (word in told) != (word in found):
                return f"{inner} {'was there, and is not' if word in told else 'was not there, and is'}"
            said = first_difference(told[word], found[word], inner)
            if said is not None:
                return said
        return None
    if isinstance(told, list) and isinstance(found, list):
        for number, pair in enumerate(zip(told, found, strict=False)):
            said = first_difference(*pair, f"{path}[{number}]")
            if said is not None:
                return said
        return None if len(told) == len(found) else f"{path} had {len(told)} entries, and has {len(found)}"
    return None if told == found else f"{path} was {told!r}, and is {found!r}"
