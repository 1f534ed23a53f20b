"""API keys: a YAML file that holds a hash of each, which models it may see and how much it may ask.

``mmllm keys add NAME --keys FILE`` adds one. The server looks at the file again whenever it has changed, so a key is
added, changed or taken back without a restart. ``access.py`` asks for the key of a request.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mmllm.errors import MmllmError

LOG = logging.getLogger("serve")

Count = Annotated[int, Field(ge=1)]
KeyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.@-]{0,63}$")]


class Key(BaseModel):
    """One entry of the file, without its name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # a key has 256 random bits, so nothing is gained by a slow hash, which would cost each request
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    models: list[str] | None = None
    """Names of the models it may see; None: all."""
    groups: list[str] = []
    """Groups it is of: models that learned from data of others are not for it."""
    at_once: Count | None = None
    """Requests that may be open at a time; None: as many as the server takes."""
    per_minute: Count | None = None
    """Requests within any 60 seconds; None: any number."""
    metrics: bool = False
    """Whether it may read the server's numbers, which are about everybody's requests."""

    def sees(self, model: str) -> bool:
        """Return whether the key may use a model."""
        return self.models is None or model in self.models


Entries = TypeAdapter(dict[KeyName, Key])


class KeyFile:
    """The keys of a file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        """Read ``path``; MmllmError where it cannot be read or holds no key."""
        self.path = path
        self._lock = threading.Lock()
        self._stamp = self._now()
        self._keys = read_keys(path)
        if not self._keys:
            raise MmllmError(f"{path} holds no key; add one with: mmllm keys add NAME --keys {path}")

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, token: str) -> tuple[str, Key] | None:
        """Return name and entry of the key whose text is ``token``; None where there is none.

        The time it takes says nothing of the keys: hashes are compared, each in constant time, and always all of them.
        """
        self._refresh()
        given = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for name, key in self._keys.items():
            if hmac.compare_digest(given, key.sha256):
                found = (name, key)
        return found

    def _now(self) -> tuple[int, int, int] | None:
        try:
            stat = os.stat(self.path)
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _refresh(self) -> None:
        """Read the file again if it has changed; one that cannot be read leaves the keys as they were, and is logged.

        An editor may be halfway through writing it, and a slip of its author must not lock everybody out.
        """
        stamp = self._now()
        if stamp == self._stamp:
            return
        with self._lock:
            if stamp == self._stamp:
                return
            self._stamp = stamp
            try:
                self._keys = read_keys(self.path)
                LOG.info("%s was read again: %d keys", self.path, len(self._keys))
            except MmllmError as error:
                LOG.error("the keys stay as they were: %s", error)


def read_keys(path: Path) -> dict[str, Key]:
    """Return name -> key of a file, in its order; MmllmError says where it is wrong."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise MmllmError(
            f"the key file {path} cannot be read ({reason}); make one with: mmllm keys add NAME --keys {path}"
        ) from error
    except yaml.YAMLError as error:
        raise MmllmError(f"the key file {path} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return Entries.validate_python({} if found is None else found)
    except ValidationError as error:
        raise MmllmError(
            f"the key file {path}: {_where(error)}: {error.errors()[0]['msg']}; an entry is "
            "NAME: {sha256: HEX, models: [NAME], groups: [NAME], at_once: N, per_minute: N}, all but sha256 optional"
        ) from error


def add_key(
    path: Path,
    name: str,
    models: Sequence[str] | None = None,
    at_once: int | None = None,
    per_minute: int | None = None,
    metrics: bool = False,
    groups: Sequence[str] | None = None,
) -> str:
    """Append a new key to a file, which is made where there is none, and return its text, which is kept nowhere.

    MmllmError: the file has a key of this name, or a value is none.
    """
    known = read_keys(path) if path.exists() else {}
    if name in known:
        raise MmllmError(
            f"{path} has a key {name!r}; take another name, and remove its entry once its users have the new key"
        )
    token = f"mmllm-{secrets.token_urlsafe(32)}"
    words: dict[str, Any] = {"at_once": at_once, "per_minute": per_minute}
    words |= {word: None if names is None else list(names) for word, names in (("models", models), ("groups", groups))}
    entry: dict[str, Any] = {"sha256": hashlib.sha256(token.encode()).hexdigest()}
    entry |= {word: value for word, value in words.items() if value is not None}
    entry |= {"metrics": True} if metrics else {}
    try:
        Entries.validate_python({name: entry})
    except ValidationError as error:
        raise MmllmError(f"{_where(error)}: {error.errors()[0]['msg']}") from error
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = before + ("\n" if before and not before.endswith("\n") else "") + yaml.safe_dump({name: entry})
    _replace(path, lines)
    return token


def remove_key(path: Path, name: str) -> None:
    """Take a key out of a file; a server that reads it refuses the key from its next request on.

    MmllmError: the file has no key of this name.
    """
    known = read_keys(path)
    if name not in known:
        raise MmllmError(f"{path} has no key {name!r}; its keys: {', '.join(known) or 'none'}")
    del known[name]
    left = {one: key.model_dump(exclude_defaults=True) for one, key in known.items()}
    _replace(path, yaml.safe_dump(left, sort_keys=False) if left else "")


def describe(name: str, key: Key) -> str:
    """Return one line about a key, without anything that helps to guess it."""
    models = "all models" if key.models is None else ", ".join(key.models) or "no model"
    most = [f"{key.at_once} at once" if key.at_once else "", f"{key.per_minute} a minute" if key.per_minute else ""]
    said = [models, *filter(None, most), *(["metrics"] if key.metrics else [])]
    return f"{name}: {'; '.join(said)}"


def _where(error: ValidationError) -> str:
    """Return the name and the word at fault."""
    return ".".join(str(step) for step in error.errors()[0]["loc"] if step != "[key]") or "the whole"


def _replace(path: Path, text: str) -> None:
    """Write a file in one piece, so that a server that reads it meanwhile meets the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    # an owner's own rights, where there is a file; else the owner alone
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


class _Strict(yaml.SafeLoader):
    """Refuses a name that stands twice: YAML would take the last entry without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping whose keys are all different."""
        seen = set()
        for one, _ in node.value:
            if one.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{one.value!r} stands twice", one.start_mark)
            seen.add(one.value)
        return super().construct_mapping(node, deep)
