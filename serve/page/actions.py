"""What buttons do: each is a callback, which Streamlit calls before a run; a run itself may be ended by the next click.

Sending takes what the page knows in a run (models, settings), so it is noted as a wish, and carried out there.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from serve.client import Card, ServerFault
from serve.page.asking import Asking
from serve.page.browser import browser
from serve.page.conversation import Conversation, Turn
from serve.page.saving import SavedError, imported
from serve.page.uploads import upload_of

Wish = tuple[str, bool]
"""Name of a turn that is to be sent, and whether another answer than the likeliest is wanted."""


def conversation() -> Conversation:
    """Return the conversation that the page shows."""
    if "conversation" not in st.session_state:
        st.session_state["conversation"] = Conversation()
    found: Conversation = st.session_state["conversation"]
    return found


def asking() -> Asking | None:
    """Return what is being written."""
    found: Asking | None = st.session_state.get("asking")
    return found


def wishes() -> list[Wish]:
    """Return the turns that are to be sent."""
    found: list[Wish] = st.session_state.setdefault("wishes", [])
    return found


def submit() -> None:
    """Take what was typed into the field, with its files."""
    st.session_state.setdefault("submitted", []).append(st.session_state["ask"])


def stop() -> None:
    """End what is being written; what there is of it stays."""
    found = asking()
    if found is not None:
        found.stop()
        st.session_state["asking"] = None
        browser().note(conversation())


def send(ident: str, another: bool = False) -> None:
    """Ask a question once more; what followed it goes."""
    turn = conversation().find(ident)
    if turn is not None:
        conversation().cut_behind(turn)
        wishes().append((ident, another))


def edit(ident: str | None) -> None:
    """Show a question as a form; None: none."""
    st.session_state["editing"] = ident


def change(turn: Turn, card: Card | None) -> None:
    """Take over what the form of a question holds, and ask it; a fault leaves the form open."""
    state = st.session_state
    text = state[f"text-{turn.ident}"].strip()
    kept = [turn.uploads[number] for number in state.get(f"files-{turn.ident}", [])]
    given = state.get(f"more-{turn.ident}") or []
    try:
        more = [upload_of(card, one.name, one.getvalue()) for one in given] if card is not None else []
    except ServerFault as error:
        state["fault"] = str(error)
        return
    if not text and not kept and not more:
        state["fault"] = "There is nothing to ask: write a question, or delete the turn."
        return
    turn.question, turn.uploads = text, (*kept, *more)
    edit(None)
    send(turn.ident)


def delete(ident: str) -> None:
    """Take a turn out of the conversation."""
    turn = conversation().find(ident)
    if turn is None:
        return
    conversation().turns.remove(turn)
    if conversation().turns:
        browser().note(conversation())
    else:
        forget(conversation().ident)


def toggle(key: str) -> None:
    """Open or close a part of the page."""
    st.session_state[key] = not st.session_state.get(key, False)


def start(other: Conversation | None = None) -> None:
    """Show another conversation, or a new one; what is being written for the one shown stops."""
    stop()
    st.session_state["conversation"] = other or Conversation()
    edit(None)


def open_kept(ident: str) -> None:
    """Ask the browser for a conversation that it kept."""
    stop()
    edit(None)
    browser().open(ident)


def forget(ident: str) -> None:
    """Delete a conversation that the browser kept."""
    browser().delete(ident)
    if ident == conversation().ident:
        start()


def bring_in(key: str) -> None:
    """Show the conversation of a file that was given to the field ``key``."""
    given: Any = st.session_state[key]
    if given is None:
        return
    st.session_state["imports"] += 1  # an empty field for the next
    try:
        read = imported(given.getvalue())
    except SavedError as error:
        st.session_state["fault"] = f"{given.name}: {error}"
        return
    start(read)
    browser().note(read)
