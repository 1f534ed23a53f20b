"""Turns of the conversation: questions with their files, answers side by side, and what can be done with each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import streamlit as st

from serve.client import ServerFault
from serve.markup import escaped, inert, tree
from serve.page import actions
from serve.page.conversation import Reply, Turn
from serve.page.copying import copy_button
from serve.page.drawing import colour_of, marked
from serve.page.looks import show_attention, show_seen
from serve.page.marks import marks
from serve.page.shown import show_uploads
from serve.page.sidebar import Settings
from serve.page.uploads import Upload, picture, png, url_of
from serve.tags import shown

_FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL)


def written(text: str) -> str:
    """Return an answer as HTML that makes the browser fetch nothing."""
    return inert(text if text.strip() else "*(an empty answer)*")


def show_turn(turn: Turn, settings: Settings, live: bool) -> list[Any]:
    """Show a turn; ``live``: its answers are being written. Returns the places of their texts, which are then empty."""
    with st.chat_message("user"):
        _show_question(turn, settings, live)
    if not live and not turn.fault and not any(one.text or one.note or one.fault for one in turn.replies):
        turn.replies, turn.fault = [], "It was not answered: the page was closed or loaded anew before."
    if turn.fault:
        st.error(escaped(turn.fault))
        _offer_again(turn, settings)
    if not turn.replies:
        return []
    with st.chat_message("assistant"):
        columns = st.columns(len(turn.replies)) if len(turn.replies) > 1 else [st.container()]
        places = []
        for number, (column, reply) in enumerate(zip(columns, turn.replies, strict=True)):
            with column:
                places.append(_show_reply(turn, number, reply, settings, live))
        if not live and any(reply.fault for reply in turn.replies):
            _offer_again(turn, settings)
    return places


def _show_question(turn: Turn, settings: Settings, live: bool) -> None:
    server = settings.models[0].server if settings.models else None
    show_uploads(turn.uploads, server)
    if st.session_state.get("editing") == turn.ident:
        _edit(turn, settings)
        return
    if turn.question:
        st.text(turn.question)
    if live:
        return
    seen = f"seen-{turn.ident}"
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key=f"do-{turn.ident}"):
        _button("Edit", "edit", turn.ident, "Edit this question; what follows it goes", actions.edit, turn.ident)
        copy_button(turn.question, "Copy the question", f"copy-{turn.ident}")
        _button("Delete", "delete", turn.ident, "Delete this question and its answer", actions.delete, turn.ident)
        if turn.uploads:
            explained = "What its encoder is given of the files"
            _button("As the model sees it", "visibility", turn.ident, explained, actions.toggle, seen)
    if st.session_state.get(seen):
        show_seen(turn, settings)


def _button(label: str, icon: str, ident: str, explained: str, act: Callable[..., None], *args: Any) -> None:
    """Show a small button; its key is its icon's name with ``ident``."""
    key = f"{icon}-{ident}"
    st.button(label, key=key, type="tertiary", icon=f":material/{icon}:", help=explained, on_click=act, args=args)


def _edit(turn: Turn, settings: Settings) -> None:
    """Show the question in a form; once it is sent, what followed it is forgotten."""
    card = settings.models[0].card if settings.models else None
    with st.form(f"edit-{turn.ident}"):
        st.text_area("Question", turn.question, key=f"text-{turn.ident}")
        names = {number: upload.name for number, upload in enumerate(turn.uploads)}
        if names:
            st.multiselect(
                "Files", list(names), list(names), key=f"files-{turn.ident}", format_func=lambda number: names[number]
            )
        if card is not None and card.endings:
            st.file_uploader("More files", card.endings, True, key=f"more-{turn.ident}")
        with st.container(horizontal=True):
            st.form_submit_button("Ask anew", type="primary", on_click=actions.change, args=(turn, card))
            st.form_submit_button("Leave it as it was", on_click=actions.edit, args=(None,))


def _offer_again(turn: Turn, settings: Settings) -> None:
    st.button(
        "Try again",
        key=f"again-{turn.ident}",
        icon=":material/refresh:",
        disabled=not settings.models,
        on_click=actions.send,
        args=(turn.ident,),
    )


def _show_reply(turn: Turn, column: int, reply: Reply, settings: Settings, live: bool) -> Any:
    """Show one answer; returns the place of its text."""
    if len(turn.replies) > 1:
        st.caption(escaped(reply.model if reply.model != _other(turn, column) else f"{reply.model} at {reply.address}"))
    place = st.empty()
    if live:
        return place
    if not _show_tree(place, reply.text) and (reply.text or not reply.fault):
        place.html(written(reply.text))
    _show_marks(turn, column, reply, settings)
    _show_tags(reply)
    if reply.note:
        st.caption(escaped(reply.note))
    if reply.fault:
        st.error(escaped(reply.fault))
    before = actions.conversation().turns
    where = f"where-{turn.ident}-{column}"
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key=f"reply-{turn.ident}-{column}"):
        if turn is before[-1] and column == 0 and not reply.fault:
            what = "Other answers" if len(turn.replies) > 1 else "Another answer"
            explained = f"{what}, drawn at the temperature, or at 0.7 where that is 0"
            _button("Regenerate", "refresh", turn.ident, explained, actions.send, turn.ident, True)
        if reply.text:
            copy_button(reply.text, "Copy the answer", f"copy-{turn.ident}-{column}")
        if reply.text and any(one.uploads for one in before[: before.index(turn) + 1]):
            explained = "Attention of a word over what was shown"
            ident = f"{turn.ident}-{column}"
            _button("Where it looked", "center_focus_strong", ident, explained, actions.toggle, where)
    if reply.text and st.session_state.get(where):
        show_attention(turn, column, reply, settings)
    return place


def _other(turn: Turn, column: int) -> str | None:
    return next((one.model for number, one in enumerate(turn.replies) if number != column), None)


def _show_tree(place: Any, text: str) -> bool:
    """Show an answer that is JSON as a tree; return whether it is."""
    fenced = _FENCED.fullmatch(text)
    try:
        found = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    is_tree = isinstance(found, dict | list) and any(isinstance(one, dict | list | str) for one in found)
    if is_tree:
        place.html(tree(found))
    return is_tree


def _show_tags(reply: Reply) -> None:
    """Show what tools made of an answer: a title, pictures, and the rest as text or as a tree."""
    for one in shown(reply.tags):
        where = ", ".join(str(list(place)) for place in one.places)
        st.caption(escaped(f"{one.title} ({where})" if where else one.title))
        for number, data in enumerate(one.pictures, 1):
            name = f"picture {number} of {one.title}"
            try:
                st.image(url_of(png(picture(name, data, 420))), alt=name)
            except ServerFault as error:
                st.text(str(error))
        place = st.empty()
        if one.text and not _show_tree(place, one.text):
            place.text(one.text)


def _show_marks(turn: Turn, column: int, reply: Reply, settings: Settings) -> None:
    """Draw the boxes and points that an answer names on the picture that it is about."""
    pictures = actions.conversation().pictures(turn)
    if not pictures or not marks(reply.text, (1, 1), settings.scale):
        return
    chosen = 0
    if len(pictures) > 1:
        names = [f"{number + 1}: {one.name}" for number, one in enumerate(pictures)]
        chosen = st.selectbox(
            "Drawn on", range(len(names)), key=f"on-{turn.ident}-{column}", format_func=lambda n: names[n]
        )
    _draw(pictures[chosen], reply.text, settings.scale)


def _draw(upload: Upload, text: str, scale: float | None) -> None:
    try:
        ground = picture(upload.name, upload.data)
    except ServerFault:
        return  # its question says so
    found = marks(text, ground.size, scale)
    if not found:
        return
    names = [f"{number} {mark.label or mark.written}" for number, mark in enumerate(found, 1)]
    st.image(
        url_of(png(marked(ground, found))), width=420, alt=f"{upload.name} with {len(found)} marks: {'; '.join(names)}"
    )
    st.html(_legend([mark.label or mark.written for mark in found]))


def _legend(labels: Sequence[str]) -> str:
    """Return the list of marks as HTML, each with its colour."""
    lines = []
    for number, text in enumerate(labels):
        swatch = f'<span style="color:{colour_of(number)};-webkit-text-stroke:1px #555">&#9632;</span>'
        lines.append(f'<li style="margin:0">{swatch} {number + 1}: {escape(text)}</li>')
    return f'<ul style="list-style:none;padding:0;margin:0">{"".join(lines)}</ul>'
