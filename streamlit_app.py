"""A chat page over a running ``mmllm serve``: attach any media the model takes, ask, watch the answer arrive.

Start it with ``streamlit run streamlit_app.py``; the server's address is a field of the sidebar (or ``MMLLM_SERVER``).
It speaks HTTP only (``serve/client.py``). Images are drawn here; all other media by the server (``POST /preview``),
which has their readers, so this process never decodes a video or a sound.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st
from PIL import Image, ImageOps

from serve.client import Answer, Card, Preview, Server, ServerFault, file_part, models, preview
from serve.markup import inert

# Comments, not strings, below these: Streamlit writes a string that stands alone onto the page.
FORMATS = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
NAMES = {
    "image": "an image",
    "video": "a video",
    "audio": "a sound",
    "graph": "a graph",
    "points": "a point cloud",
    "document": "a document",
}
MAX_PIXELS = 50_000_000
PREVIEW = 320  # longest side of a preview in pixels
MAX_TURNS = 40  # older turns leave the page and the requests


@dataclass(frozen=True)
class Upload:
    """A file as it is sent (``part`` of a message) and as it is shown."""

    name: str
    part: dict[str, Any]
    shown: Preview
    sound: bytes | None = None  # what the player plays


@dataclass(frozen=True)
class Turn:
    """One message of the page with its files."""

    role: str
    text: str
    uploads: tuple[Upload, ...] = ()
    note: str = ""

    def message(self) -> dict[str, Any]:
        """Return the turn as the API takes it, media first."""
        if not self.uploads:
            return {"role": self.role, "content": self.text}
        parts = [upload.part for upload in self.uploads]
        return {"role": self.role, "content": [*parts, *([{"type": "text", "text": self.text}] if self.text else [])]}


def read_upload(server: Server, card: Card, name: str, data: bytes) -> Upload:
    """Check and draw an uploaded file, an image here, the rest on the server; ServerFault where it is not usable."""
    modality = card.modality(name)
    if modality is None:
        raise ServerFault(f"{name} is no file that this model takes; use one of: {', '.join(card.endings)}.")
    if modality == "image":
        return read_image(name, data)
    part = file_part(name, data, modality)
    try:
        return Upload(name, part, preview(server, part), data if modality == "audio" else None)
    except ServerFault as error:
        raise ServerFault(f"{name}: {error}") from error


def read_image(name: str, data: bytes) -> Upload:
    """Check an uploaded image, its header before it is decoded; ServerFault when it is no usable image."""
    try:
        image = Image.open(io.BytesIO(data), formats=list(FORMATS))
        kind = FORMATS[str(image.format)]
        if image.width * image.height > MAX_PIXELS:
            raise ServerFault(f"{name} holds {image.width} x {image.height} pixels; make it smaller.")
        # a JPEG is decoded at the next larger of the sizes that it holds, not whole
        image.draft("RGB", (PREVIEW, PREVIEW))
        small = ImageOps.exif_transpose(image)
        small.thumbnail((PREVIEW, PREVIEW))
        buffer = io.BytesIO()
        small.convert("RGBA").save(buffer, "PNG")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        known = ", ".join(FORMATS.values())
        raise ServerFault(f"{name} is not an image that can be read; use one of: {known}.") from error
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Upload(name, {"type": "image_url", "image_url": {"url": url}}, Preview("", (("", buffer.getvalue()),)))


def sidebar() -> tuple[Server, str | None, Card | None, dict[str, Any]]:
    """Return server, chosen model and its card (None when there is no server) and decoding options."""
    with st.sidebar:
        if st.button("New chat", key="clear", width="stretch", icon=":material/add_comment:"):
            st.session_state["turns"] = []
        default = os.environ.get("MMLLM_SERVER", "http://127.0.0.1:8000")
        typed = st.text_input("Server", default, key="server").strip()
        key = st.text_input("Key", key="key", type="password", help="of the API, where the server asks for one")
        # the page's own key stays in this process and goes to no server but its own
        own = os.environ.get("MMLLM_KEY", "") if typed == default else ""
        server = Server(typed.rstrip("/").removesuffix("/v1"), key.strip() or own)
        try:
            known = models(server)
        except ServerFault as error:
            st.session_state["fault"] = str(error)
            known = {}
        if st.session_state.get("model") not in known:  # the choice of before the server changed or came up
            st.session_state["model"] = next(iter(known), None)
        model = st.selectbox("Model", list(known), key="model", disabled=not known)
        if model is not None:
            st.caption(f"Context: {known[model].context} tokens, media included.")
        options: dict[str, Any] = {
            "temperature": st.slider("Temperature", 0.0, 2.0, 0.0, 0.1, key="temperature", help="0: likeliest token"),
            "top_p": st.slider("Top-p", 0.05, 1.0, 1.0, 0.05, key="top_p"),
            "max_tokens": int(st.number_input("Max tokens", 1, 8192, 64, key="max_tokens")),
        }
        seed = st.number_input("Seed", 0, 2**31 - 1, None, key="seed", placeholder="random")
        if seed is not None:
            options["seed"] = int(seed)
    return server, model, known.get(model) if model is not None else None, options


def show(turn: Turn) -> None:
    """Show one turn with its media; what the user typed is shown as typed."""
    with st.chat_message(turn.role):
        show_uploads(turn.uploads)
        if turn.role == "user":
            st.text(turn.text)
        else:
            st.html(written(turn.text))
        if turn.note:
            st.caption(turn.note)


def written(text: str) -> str:
    """Return an answer as HTML that makes the browser fetch nothing."""
    return inert(text if text.strip() else "*(an empty answer)*")


def show_uploads(uploads: Sequence[Upload]) -> None:
    """Show images in a row; of other files name and caption, then frames in a row, a drawing or text."""
    images = [upload.shown.pictures[0][1] for upload in uploads if not upload.shown.caption]
    if images:
        st.image(images, width=220)
    for upload in uploads:
        shown = upload.shown
        if not shown.caption:
            continue
        st.text(f"{upload.name}: {shown.caption}")
        if len(shown.pictures) > 1:
            pictures = [picture for _, picture in shown.pictures]
            st.image(pictures, caption=[caption for caption, _ in shown.pictures], width=100)
        elif shown.pictures:
            st.image(shown.pictures[0][1])
        else:
            st.code(shown.text, language=None, wrap_lines=True)
        if upload.sound is not None:
            st.audio(upload.sound)


def ask(server: Server, model: str, card: Card, options: dict[str, Any], text: str, files: list[Any]) -> None:
    """Send the question with all turns before it; an answer joins the history, a fault leaves it as it was."""
    turns: list[Turn] = st.session_state["turns"]
    with st.spinner("Reading the files") if files else contextlib.nullcontext():
        uploads = tuple(read_upload(server, card, file.name, file.getvalue()) for file in files)
    question = Turn("user", text, uploads)
    show(question)
    messages = [turn.message() for turn in [*turns, question]]
    answer = Answer(server, {"model": model, "messages": messages, **options})
    with st.chat_message("assistant"):
        shown = st.empty()
        for _ in answer.deltas():
            shown.html(written(answer.text))
        shown.html(written(answer.text))
        st.caption(answer.note())
    turns += [question, Turn("assistant", answer.text, note=answer.note())]
    del turns[:-MAX_TURNS]


def hint(card: Card | None) -> str:
    """Return a sentence about what may be attached."""
    kinds = [NAMES.get(modality, modality) for modality in (card.file_types if card else ())]
    if not kinds:
        return "This model takes text only."
    several = f"{', '.join(kinds[:-1])} or {kinds[-1]}" if len(kinds) > 1 else kinds[0]
    return f"Attach {several} with **+**, or drop it on the field below, and ask about it."


def main() -> None:
    """Show the page, from top to bottom; Streamlit runs it anew at every click."""
    st.set_page_config(page_title="mmllm chat", page_icon="🖼️", layout="centered")
    st.session_state.setdefault("turns", [])
    st.session_state["fault"] = ""
    server, model, card, options = sidebar()
    st.title("mmllm chat")
    endings = card.endings if card is not None else []
    accept: dict[str, Any] = {"accept_file": "multiple", "file_type": endings} if endings else {}
    asked = st.chat_input("Ask about media, or just ask", key="ask", disabled=model is None, **accept)
    if not st.session_state["turns"] and not asked:
        st.info(hint(card))
    for turn in st.session_state["turns"]:
        show(turn)
    if asked and model is not None and card is not None:
        text, files = (asked, []) if isinstance(asked, str) else (asked.text, list(asked.files))
        try:
            ask(server, model, card, options, text, files)
        except ServerFault as error:
            st.session_state["fault"] = str(error)
    if st.session_state["fault"]:
        st.error(st.session_state["fault"])


if __name__ == "__main__":
    main()
