"""Conversations kept in the browser: what it is to keep goes out with each run of the page, what it kept comes back."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import streamlit as st

from serve.page.conversation import Conversation, new_id
from serve.page.saving import SavedError, dumped, files_of, loaded

KEY = "browser"
SETTINGS = ("servers", "model", "compare", "second", "temperature", "top_p", "max_tokens", "seed", "scale")
"""Names of the session's values that are kept as well; API keys are not among them."""
EXTENT = 1
"""Height of the store on the page in pixels, which shows nothing."""

_store = st.components.v2.component("mmllm_browser", js=Path(__file__).with_name("browser.js").read_text("utf-8"))


class Browser:
    """The session's side of the browser's store."""

    def __init__(self) -> None:
        self.session = new_id()
        self.ready = False
        """Whether what was kept has been read."""
        self.fault = ""
        self.conversations: list[dict[str, Any]] = []
        """``id``, ``title`` and ``changed`` of those kept, the last changed first."""
        self.restored: dict[str, Any] = {}
        """Settings that were kept, until the page takes them over."""
        self._deleted: list[str] = []
        self._asked_for: set[str] = set()
        self._open: dict[str, Any] | None = None
        self._taken: dict[str, Any] | None = None

    def mount(self) -> None:
        """Put the store onto the page, which shows nothing of it; once in each run."""
        conversation: Conversation = st.session_state["conversation"]
        # a conversation that is opened comes instead of this one
        kept = conversation if self.ready and conversation.turns and self._open is None else None
        files = files_of(conversation) if self._asked_for else {}
        data = {
            "session": self.session,
            "ready": self.ready,
            "conversation": None if kept is None else dumped(kept, with_files=False),
            "here": conversation.ident,
            "files": {digest: base64.b64encode(files[digest]).decode() for digest in self._asked_for & files.keys()},
            "deleted": self._deleted,
            "open": self._open,
            "settings": self._settings() if self.ready else None,
        }
        _store(key=KEY, data=data, on_event_change=self._take, height=EXTENT)
        # once: what did not arrive is asked for again
        self._asked_for = set()

    def note(self, conversation: Conversation) -> None:
        """Have a conversation at the top of the list, with its present title."""
        if not conversation.turns:
            return
        conversation.changed = time.time()
        entry = {"id": conversation.ident, "title": conversation.title, "changed": conversation.changed}
        self.conversations = [entry, *(one for one in self.conversations if one["id"] != conversation.ident)]

    def open(self, ident: str) -> None:
        """Ask for a conversation; it is the session's in one of the next runs."""
        number = 1 if self._taken is None else self._taken["number"] + 1
        self._open = self._taken = {"id": ident, "number": number}

    def delete(self, ident: str) -> None:
        """Forget a conversation."""
        self._deleted.append(ident)
        self.conversations = [one for one in self.conversations if one["id"] != ident]

    def _settings(self) -> dict[str, Any]:
        return {name: st.session_state[name] for name in SETTINGS if name in st.session_state}

    def _take(self) -> None:
        """Take what the browser says, before the page is run anew."""
        event = st.session_state[KEY]["event"] or {}
        kind = event.get("kind")
        if kind == "failed":
            self.ready = True
            self.fault = f"This browser keeps no conversations ({event.get('message')})."
        elif kind == "missing":
            self._asked_for = set(event["digests"])
        elif kind == "ready":
            self.ready = True
            self.conversations = event["conversations"]
            self.restored = {name: value for name, value in (event["settings"] or {}).items() if name in SETTINGS}
            self._put(event, only_over_nothing=True)
        elif kind == "opened":
            self._open = None
            self._put(event)

    def _put(self, event: dict[str, Any], only_over_nothing: bool = False) -> None:
        """Make a kept conversation the session's."""
        if event["conversation"] is None or (only_over_nothing and st.session_state["conversation"].turns):
            return
        try:
            files = {digest: base64.b64decode(content) for digest, content in event["files"].items()}
            st.session_state["conversation"] = loaded(event["conversation"], files)
        except (SavedError, ValueError) as error:
            self.fault = f"A conversation that this browser kept cannot be read: {error}"


def browser() -> Browser:
    """Return the session's store."""
    if "store" not in st.session_state:
        st.session_state["store"] = Browser()
    found: Browser = st.session_state["store"]
    return found
