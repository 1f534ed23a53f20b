"""A certificate in a few lines of Markdown, for the terminal and a model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERDICTS = {
    "unchanged": "Text without media is answered as by the bare language model, bit for bit.",
    "changed": "Text without media is NOT answered as by the bare language model.",
    "not shown": "It is not shown that text without media is answered as by the bare language model.",
}
SHOWN = 8
"""Changes that are listed; the certificate has all of them."""


def summary(certificate: Mapping[str, Any]) -> str:
    """What a certificate says, as Markdown; ``certificate`` as ``mmllm certify`` writes it."""
    text, llm, logits = certificate["text"], certificate["llm"], certificate["logits"]
    lines = [f"**{VERDICTS[text['verdict']]}**", ""]
    changes = text["changes"]
    for one in changes[:SHOWN]:
        why = f" ({one['why']})" if one["why"] else ""
        word = "not shown" if one["verdict"] == "not shown" else "changes text"
        lines.append(f"- {word}: `{one['part']}` {one['what']}{why}")
    if len(changes) > SHOWN:
        lines.append(f"- and {len(changes) - SHOWN} more, in the certificate")
    lines += [f"- {one}" for one in _facts(certificate, llm, logits)]
    last = f"Certificate {certificate['digest']}; anyone can make it again: `mmllm certify RUN`."
    return "\n".join([*lines, "", last])


def _facts(certificate: Mapping[str, Any], llm: Mapping[str, Any], logits: Mapping[str, Any]) -> list[str]:
    """What was looked at, and how much of it."""
    tensors = sum(len(part["tensors"]) for part in certificate["frozen"].values())
    parts = ", ".join(certificate["frozen"]) or "none"
    own = certificate["equal_to_folder"]
    same = [name for name, equal in own.items() if equal]
    others = [name for name, equal in own.items() if not equal]
    hooks = certificate["hooks"]
    harmless = sum(one["text"] == "unchanged" for one in hooks)
    bits = certificate["machine"]["logits"]
    ways = [one["way"] for one in logits["ways"]]
    exact = [way for way in ways if bits[way]["bits"]]
    found = [
        f"{tensors} frozen tensors have their digests in it (parts: {parts}; {llm['dtype']})",
        f"as in the folder of the language model ({llm['class']}): {', '.join(same) or 'nothing'}"
        + (f"; not: {', '.join(others)}" if others else ""),
        f"{harmless} of {len(hooks)} hooks inside it are shown, by its structure, to leave conversations without media "
        "alone",
        f"{logits['fixed']} fixed and {logits['drawn']} drawn texts, {sum(one['positions'] for one in logits['ways'])} "
        f"positions: logits equal to the last bit in {len(exact)} of {len(ways)} ways of asking",
    ]
    rounded = [one["way"] for one in logits["ways"] if one["holds"] and one["way"] not in exact]
    if rounded:
        largest = max(bits[way]["largest"] for way in rounded)
        found.append(f"equal but for rounding, at most {largest:.1g}: {'; '.join(rounded)}")
    return found
