"""From a question to its answers: files are read, a request goes to each model that is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from serve.client import ServerFault
from serve.page import actions
from serve.page.asking import Asking
from serve.page.browser import browser
from serve.page.conversation import Conversation, Reply, Turn
from serve.page.models import Model
from serve.page.shown import preview_of
from serve.page.sidebar import Settings

ANOTHER = 0.7
"""Temperature of another answer, where the likeliest was there already."""


def send(turn: Turn, settings: Settings, another: bool = False) -> None:
    """Ask the chosen models; a fault of the question stays beside it, and nothing of it is lost.

    ``another``: the answers are drawn, as other ones than were there.
    """
    actions.stop()
    options = dict(settings.options)
    if another:
        options["temperature"] = options["temperature"] or ANOTHER
        options.pop("seed", None)
    turn.replies, turn.fault = [], ""
    _ask(actions.conversation(), turn, settings.models, options)
    browser().note(actions.conversation())


def _ask(conversation: Conversation, turn: Turn, models: Sequence[Model], options: dict[str, Any]) -> None:
    if not models:
        turn.fault = "No model was there to answer it."
        return
    try:
        with st.spinner("Reading the files") if turn.uploads else st.container():
            for upload in turn.uploads:
                preview_of(upload, models[0].server)
        messages = [conversation.messages(turn, column) for column in range(len(models))]
    except ServerFault as error:
        turn.fault = str(error)
        return
    turn.replies = [Reply(model.name, model.server.address) for model in models]
    requests = [
        (model.server, {"model": model.name, "messages": told, **options})
        for model, told in zip(models, messages, strict=True)
    ]
    st.session_state["asking"] = Asking(turn.ident, turn.replies, requests)
