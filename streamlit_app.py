"""A chat page over one or several running ``mmllm serve``: attach any media the models take, ask, watch answers arrive.

Start it with ``streamlit run streamlit_app.py``; the server's address is a field of the sidebar (or ``MMLLM_SERVER``).
It speaks HTTP only (``serve/client.py``), and its parts are in ``serve/page/``. Images are drawn here; all other media
by the server (``POST /preview``), which has their readers, so this process never decodes a video or a sound.
"""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

from serve.markup import escaped
from serve.page import actions
from serve.page.asking import Asking
from serve.page.browser import browser
from serve.page.conversation import Conversation, Reply
from serve.page.field import field, hint
from serve.page.sending import send
from serve.page.sidebar import Settings, sidebar
from serve.page.turns import show_turn, written

# Comments, not strings, below these: Streamlit writes a string that stands alone onto the page.
OFTEN = 0.12  # seconds between two looks at answers that are being written
WAITING = "<p>…</p>"


def main() -> None:
    """Show the page, from top to bottom; Streamlit runs it anew at every click."""
    st.set_page_config(page_title="mmllm chat", page_icon="🖼️", layout="centered")
    conversation = actions.conversation()
    busy = actions.asking() is not None
    settings = sidebar(busy)
    card = settings.models[0].card if settings.models else None
    st.title("mmllm chat")
    for turn in field(card, busy):
        actions.stop()
        conversation.turns.append(turn)
        if turn.fault:
            browser().note(conversation)
        else:
            actions.send(turn.ident)
    send_wished(settings)
    if not conversation.turns and card is not None:
        st.info(hint(card))
    asking = actions.asking()
    places: list[Any] = []
    for turn in list(conversation.turns):
        live = asking is not None and turn.ident == asking.turn
        shown = show_turn(turn, settings, live)
        places = shown if live else places
    for fault in (st.session_state.pop("fault", ""), *settings.faults):
        if fault:
            st.error(escaped(fault))
    browser().mount()
    if asking is not None:
        follow(asking, conversation, places)


def send_wished(settings: Settings) -> None:
    """Send what is to be sent; a wish goes when it is done, since this run may be ended before."""
    wishes = actions.wishes()
    for ident, another in list(wishes):
        turn = actions.conversation().find(ident)
        if turn is not None:
            send(turn, settings, another)
        wishes.remove((ident, another))
        st.rerun()  # with a button that stops the answer


def follow(asking: Asking, conversation: Conversation, places: list[Any]) -> None:
    """Show the answers as they come, until they have ended; a click meanwhile ends this run, and not them."""
    turn = conversation.find(asking.turn)
    replies: list[Reply] = turn.replies if turn is not None else []
    while not asking.is_over():
        for place, reply in zip(places, replies, strict=True):
            # also what has not changed: only where something is written does a click reach this run
            place.html(written(reply.text) if reply.text else WAITING)
        time.sleep(OFTEN)
    st.session_state["asking"] = None
    browser().note(conversation)
    st.rerun()


if __name__ == "__main__":
    main()
