"""What a model is given and where it looks: media as its encoder sees them, attention of a word over them."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import streamlit as st
from PIL import Image

from serve.client import ServerFault
from serve.markup import escaped
from serve.page import actions
from serve.page.conversation import Reply, Turn
from serve.page.drawing import heated
from serve.page.models import Model
from serve.page.shown import show_preview
from serve.page.sidebar import Settings
from serve.page.uploads import SIDE, png, url_of
from serve.views import Attention, Map, attention, seen

MOST_WORDS = 80
"""Maximum number of an answer's words that can be chosen from."""

T = TypeVar("T")


def show_seen(turn: Turn, settings: Settings) -> None:
    """Show what each asked model's encoders are given of a question's files."""
    for model in _models_of(turn, settings):
        for upload in turn.uploads:
            try:
                views = _once(
                    ("seen", model.server.address, model.name, upload.digest),
                    lambda model=model, upload=upload: seen(model.server, model.name, upload.part),  # type: ignore[misc]
                )
            except ServerFault as error:
                st.warning(escaped(f"{upload.name}: {error}"))
                continue
            with st.container(border=True):
                for view in views:
                    show_preview(f"{upload.name}, {model.name}: {view.caption}", view, upload.name, width=150)


def _models_of(turn: Turn, settings: Settings) -> list[Model]:
    """Return the models that answered, or else those that would; only such as can be asked now."""
    answered = [settings.model(reply.address, reply.model) for reply in turn.replies]
    return [model for model in answered if model is not None] or list(settings.models)


def show_attention(turn: Turn, column: int, reply: Reply, settings: Settings) -> None:
    """Let the user choose a word of an answer, and show the attention of its tokens over the media."""
    model = settings.model(reply.address, reply.model)
    if model is None:
        st.warning(escaped(f"{reply.model} at {reply.address} cannot be asked now."))
        return
    words = [match.span() for match in re.finditer(r"\S+", reply.text)][:MOST_WORDS]
    with st.container(border=True):
        chosen = st.pills(
            "Word",
            range(len(words)),
            key=f"word-{turn.ident}-{column}",
            format_func=lambda number: escaped(reply.text[slice(*words[number])]),
            help="The attention in the passes that chose this word's tokens, mean over layers and heads",
        )
        if chosen is None or chosen >= len(words):
            return
        start, end = words[chosen]
        try:
            request = {
                "model": model.name,
                "messages": actions.conversation().messages(turn, column),
                "answer": reply.text,
                "start": start,
                "end": end,
            }
            told = hashlib.sha256(json.dumps(request).encode()).hexdigest()
            found = _once(("attention", model.server.address, told), lambda: attention(model.server, request))
        except ServerFault as error:
            st.warning(escaped(str(error)))
            return
        _show_maps(found)


def _show_maps(found: Attention) -> None:
    most = max((weight for _, maps in found.items for one in maps for row in one.weights for weight in row), default=0)
    st.caption(f"{100 * found.share:.1f} % of the attention of “{escaped(found.text)}” lies on what was shown.")
    for name, maps in found.items:
        with st.container(horizontal=True, gap="small"):
            for one in maps:
                _show_map(name, one, most)


def _show_map(name: str, one: Map, most: float) -> None:
    rows, cols = len(one.weights), len(one.weights[0])
    title = ", ".join(word for word in (name, one.caption) if word)
    if rows == 1 and one.picture is None:
        st.caption(escaped(title))
        st.bar_chart(one.weights[0], height=120, x_label="place", y_label="weight")
        return
    ground = Image.new("RGB", (24 * cols, 24 * rows)) if one.picture is None else Image.open(io.BytesIO(one.picture))
    scale = max(1, SIDE // 3 // max(ground.size))
    ground = ground.resize((ground.width * scale, ground.height * scale))
    st.image(
        url_of(png(heated(ground, one.weights, most))),
        caption=escaped(title),
        width=240,
        alt=f"Attention over {title}: {rows} rows of {cols}, the brightest {100 * most:.2f} %",
    )


def _once(key: tuple[Any, ...], ask: Callable[[], T]) -> T:
    """Return what a server said, asked once a session."""
    kept: dict[tuple[Any, ...], Any] = st.session_state.setdefault("looks", {})
    if key not in kept:
        kept[key] = ask()
    found: T = kept[key]
    return found
