"""The field at the foot of the page: a question with its files, and beside it microphone, camera and a graph's node."""

from __future__ import annotations

from typing import Any

import streamlit as st

from serve.client import Card, ServerFault
from serve.page import actions
from serve.page.conversation import Turn
from serve.page.uploads import Upload, upload_of

NAMES = {
    "image": "an image",
    "video": "a video",
    "audio": "a sound",
    "graph": "a graph",
    "points": "a point cloud",
    "document": "a document",
}


def hint(card: Card) -> str:
    """Return a sentence about what may be attached."""
    kinds = [NAMES.get(modality, modality) for modality in card.file_types]
    if not kinds:
        return "This model takes text only."
    several = f"{', '.join(kinds[:-1])} or {kinds[-1]}" if len(kinds) > 1 else kinds[0]
    return f"Attach {several} with **+**, or drop it on the field below, and ask about it."


def field(card: Card | None, busy: bool) -> list[Turn]:
    """Show it; return what was asked. ``busy``: answers are being written, and a button stops them."""
    with st.bottom:
        recorded: list[tuple[str, bytes]] = []
        node = None
        kinds = set(card.file_types) if card is not None else set()
        with st.container(horizontal=True, vertical_alignment="bottom", key="beside"):
            if busy:
                st.button(
                    "Stop",
                    key="stop",
                    type="primary",
                    icon=":material/stop_circle:",
                    shortcut="Esc",
                    on_click=actions.stop,
                )
            if kinds & {"audio", "image"}:
                recorded = _recorded(kinds)
            if "graph" in kinds:
                node = st.number_input(
                    "Node of the graph",
                    0,
                    value=None,
                    key="node",
                    width=190,
                    placeholder="Node of the graph",
                    label_visibility="collapsed",
                    help="which node of an attached graph the question is about",
                )
    endings = card.endings if card is not None else []
    accept: dict[str, Any] = {"accept_file": "multiple", "file_type": endings} if endings else {}
    st.chat_input("Ask about media, or just ask", key="ask", disabled=card is None, on_submit=actions.submit, **accept)
    submitted = st.session_state.pop("submitted", [])
    if card is None:
        return []
    return [_turn(card, asked, recorded, None if node is None else int(node)) for asked in submitted]


def _turn(card: Card, asked: Any, recorded: list[tuple[str, bytes]], node: int | None) -> Turn:
    """Return a question as it was typed, with its files; one that the model does not take is its fault."""
    text, files = (asked, []) if isinstance(asked, str) else (asked.text, list(asked.files))
    turn = Turn(text)
    uploads: list[Upload] = []
    for name, data in [*recorded, *((file.name, file.getvalue()) for file in files)]:
        try:
            uploads.append(upload_of(card, name, data, node))
        except ServerFault as error:
            # kept as it is, so that its question can be mended
            uploads.append(Upload(name, card.modality(name) or "file", data))
            turn.fault = str(error)
    turn.uploads = tuple(uploads)
    recorded.clear()
    st.session_state["records"] = st.session_state.get("records", 0) + 1
    return turn


def _recorded(kinds: set[str]) -> list[tuple[str, bytes]]:
    """Show microphone and camera, as far as the model takes that; return the files of what was recorded."""
    count = st.session_state.setdefault("records", 0)
    found = []
    names = [name for kind, name in (("audio", "Microphone"), ("image", "Camera")) if kind in kinds]
    with st.popover(" and ".join(names).capitalize(), icon=":material/add_a_photo:", key="record"):
        if "audio" in kinds:
            sound = st.audio_input("Record a sound", key=f"sound{count}")
            if sound is not None:
                found.append(("recording.wav", sound.getvalue()))
        if "image" in kinds and st.toggle("Use the camera", key=f"camera{count}"):
            photo = st.camera_input("Take a picture", key=f"photo{count}")
            if photo is not None:
                found.append(("photo.jpg", photo.getvalue()))
        if found:
            st.caption("It goes with the next question.")
    return found
