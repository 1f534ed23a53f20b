"""A conversation as JSON: a file that a user takes along, and what the browser keeps with the files beside it."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping
from typing import Any

from serve.page.conversation import Conversation, Reply, Turn
from serve.page.uploads import Upload
from serve.tags import shown

FORMAT = "mmllm chat"
VERSION = 1


class SavedError(ValueError):
    """What is wrong with a file that was to hold a conversation, in a sentence."""


def dumped(conversation: Conversation, with_files: bool = True) -> dict[str, Any]:
    """Return a conversation as plain JSON.

    ``with_files``: as base64; else files are named by their digest, and lie elsewhere (:func:`files_of`).
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": conversation.ident,
        "title": conversation.title,
        "changed": conversation.changed,
        "turns": [_turn(turn, with_files) for turn in conversation.turns],
    }


def _turn(turn: Turn, with_files: bool) -> dict[str, Any]:
    files = []
    for upload in turn.uploads:
        where = {"data": base64.b64encode(upload.data).decode()} if with_files else {"digest": upload.digest}
        files.append({"name": upload.name, "modality": upload.modality, **where})
    answers = [
        {
            **{"model": one.model, "server": one.address, "text": one.text, "note": one.note, "fault": one.fault},
            **({"tags": one.tags} if one.tags else {}),
        }
        for one in turn.replies
    ]
    return {"question": turn.question, "files": files, "answers": answers, "fault": turn.fault}


def files_of(conversation: Conversation) -> dict[str, bytes]:
    """Return digest -> content of all files of a conversation."""
    return {upload.digest: upload.data for upload in conversation.uploads}


def exported(conversation: Conversation) -> str:
    """Return the text of a file that holds a conversation and its files."""
    return json.dumps(dumped(conversation), ensure_ascii=False, indent=1)


def imported(data: bytes) -> Conversation:
    """Return the conversation of such a file, under a name of its own; SavedError says what is wrong with another."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SavedError("The file is not JSON; choose one that this page exported.") from error
    conversation = loaded(found)
    return Conversation(conversation.turns)


def loaded(found: Any, files: Mapping[str, bytes] | None = None) -> Conversation:
    """Return what :func:`dumped` wrote; ``files``: digest -> content, where they lie elsewhere.

    Raises SavedError. A file whose content is gone stays named in its question.
    """
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise SavedError("The file holds no conversation of this page; choose one that it exported.")
    if found.get("version") != VERSION:
        raise SavedError(f"The conversation is of version {found.get('version')!r}; this page reads {VERSION}.")
    turns = found.get("turns")
    if not isinstance(turns, list):
        raise SavedError("The conversation has no list of turns.")
    read = [_read_turn(turn, number, files or {}) for number, turn in enumerate(turns, 1)]
    changed = found.get("changed")
    conversation = Conversation(read, changed=float(changed) if isinstance(changed, int | float) else time.time())
    if isinstance(found.get("id"), str) and found["id"]:
        conversation.ident = found["id"]
    return conversation


def _read_turn(found: Any, number: int, files: Mapping[str, bytes]) -> Turn:
    where = f"Turn {number} of the conversation"
    if not isinstance(found, dict) or not isinstance(found.get("question"), str):
        raise SavedError(f"{where} has no question.")
    lists = {name: found.get(name, []) for name in ("files", "answers")}
    for name, items in lists.items():
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise SavedError(f"{where}: {name} is no list of objects.")
    turn = Turn(_text(found, "question", where), fault=_text(found, "fault", where))
    kept, gone = [], []
    for item in lists["files"]:
        data = files.get(str(item.get("digest"))) if "data" not in item else _bytes(item["data"], where)
        name, modality = _text(item, "name", where), _text(item, "modality", where)
        if data is None:
            gone.append(name)
        else:
            kept.append(Upload(name, modality, data))
    turn.uploads = tuple(kept)
    if gone:
        turn.fault = f"{', '.join(gone)} is no longer kept in this browser; attach it anew."
    for item in lists["answers"]:
        model, address, text, note, fault = (
            _text(item, name, where) for name in ("model", "server", "text", "note", "fault")
        )
        turn.replies.append(Reply(model, address, text, note, fault, _tags(item.get("tags", []), where)))
    return turn


def _text(found: Mapping[str, Any], name: str, where: str) -> str:
    value = found.get(name, "")
    if not isinstance(value, str):
        raise SavedError(f"{where}: {name} is {str(value)[:40]!r} and no text.")
    return value


def _tags(value: Any, where: str) -> list[dict[str, Any]]:
    try:
        shown(value)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise SavedError(f"{where}: the tags of an answer are none that a server gives.") from error
    return list(value)


def _bytes(value: Any, where: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (ValueError, TypeError, binascii.Error) as error:
        raise SavedError(f"{where}: the content of a file is no base64.") from error
