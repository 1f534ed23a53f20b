"""A chat page over a running ``mmllm serve``: attach images, ask, watch the answer arrive. It speaks HTTP only.

Start it with ``streamlit run streamlit_app.py``; the server's address is a field of the sidebar (or ``MMLLM_SERVER``).
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import streamlit as st
from PIL import Image, ImageOps

# Comments, not strings, below these: Streamlit writes a string that stands alone onto the page.
EXTENSIONS = ["png", "jpg", "jpeg", "webp", "gif", "bmp"]  # explicit: with MIME wildcards Streamlit checks nothing
FORMATS = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
MAX_PIXELS = 50_000_000
PREVIEW = 320  # longest side of a preview in pixels
MAX_TURNS = 40  # older turns leave the page and the requests
ADVICE = {
    413: "Send fewer or smaller images.",
    429: "Ask again in a moment.",
    500: "The terminal of the server says what happened.",
    503: "Start the server again, or wait until it is ready.",
}


class ServerFault(Exception):
    """What the page shows instead of an answer: one sentence and what to do about it."""


@dataclass(frozen=True)
class Upload:
    """An image as it is sent (``url``) and as it is shown (``preview``, a small PNG)."""

    url: str
    preview: bytes


@dataclass(frozen=True)
class Turn:
    """One message of the page."""

    role: str
    text: str
    images: tuple[Upload, ...] = ()
    note: str = ""

    def message(self) -> dict[str, Any]:
        """The turn as the API takes it, images first."""
        if not self.images:
            return {"role": self.role, "content": self.text}
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": image.url}} for image in self.images]
        return {"role": self.role, "content": [*parts, *([{"type": "text", "text": self.text}] if self.text else [])]}


@dataclass
class Answer:
    """One streamed answer: iterate ``pieces`` once, then read the note."""

    server: str
    request: dict[str, Any]
    text: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    finish: str | None = None
    first: float | None = None
    seconds: float = 0.0

    def pieces(self) -> Iterator[str]:
        """Texts as they arrive; ServerFault for every way in which it can go wrong."""
        started = time.monotonic()
        body = {**self.request, "stream": True, "stream_options": {"include_usage": True}}
        patience = httpx.Timeout(600, connect=5)
        try:
            with httpx.stream("POST", f"{self.server}/v1/chat/completions", json=body, timeout=patience) as reply:
                if reply.status_code != 200:
                    reply.read()
                    raise fault(reply.status_code, reply.text)
                for event in events(reply):
                    piece = self._take(event)
                    if piece:
                        self.first = self.first or time.monotonic() - started
                        self.text += piece
                        yield piece
        except httpx.HTTPError as error:
            raise unreachable(self.server) from error
        self.seconds = time.monotonic() - started
        if self.finish is None:
            raise ServerFault("The answer broke off. " + ADVICE[500])

    def _take(self, event: dict[str, Any]) -> str:
        if "error" in event:
            raise ServerFault(f"{event['error']['message']} {ADVICE[500]}")
        self.usage = event.get("usage") or self.usage
        for choice in event["choices"]:
            self.finish = choice["finish_reason"] or self.finish
            return choice["delta"].get("content") or ""
        return ""

    def note(self) -> str:
        """Time to the first token, tokens and speed, in one line."""
        asked, said = self.usage.get("prompt_tokens", 0), self.usage.get("completion_tokens", 0)
        first = self.seconds if self.first is None else self.first
        speed = f" · {said / self.seconds:.1f} tokens/s" if self.seconds else ""
        cut = " · cut at max tokens" if self.finish == "length" else ""
        return f"first token {first:.2f} s · {said} tokens{speed} · prompt {asked} tokens{cut}"


def events(reply: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON events of a stream up to ``[DONE]``, comment lines left out."""
    for line in reply.iter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def fault(status: int, text: str) -> ServerFault:
    """What a refusal says, with advice for the statuses a user can do something about."""
    try:
        error = json.loads(text)["error"]
        said, code = str(error["message"]), error["code"]
    except (ValueError, KeyError, TypeError):
        said, code = f"The server answered with HTTP {status}.", None
    advice = ADVICE.get(status, "")
    if code == "context_length_exceeded":
        advice = "Start a new chat, send fewer images or lower the max tokens."
    return ServerFault(f"{said} {advice}".strip())


def unreachable(server: str) -> ServerFault:
    """Nobody listens at the address."""
    return ServerFault(f"No server answers at {server}. Start one with `mmllm serve runs/demo`, or change the address.")


def models(server: str) -> dict[str, int]:
    """Model names -> their context in tokens; ServerFault when there is no server."""
    try:
        reply = httpx.get(f"{server}/v1/models", timeout=5)
        reply.raise_for_status()
        return {card["id"]: int(card["max_model_len"]) for card in reply.json()["data"]}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise unreachable(server) from error


def read_upload(name: str, data: bytes) -> Upload:
    """An uploaded file, its header checked before it is decoded; ServerFault when it is no usable image."""
    try:
        image = Image.open(io.BytesIO(data), formats=list(FORMATS))
        kind = FORMATS[str(image.format)]
        if image.width * image.height > MAX_PIXELS:
            raise ServerFault(f"{name} holds {image.width} x {image.height} pixels; make it smaller.")
        small = ImageOps.exif_transpose(image)
        small.thumbnail((PREVIEW, PREVIEW))
        buffer = io.BytesIO()
        small.convert("RGBA").save(buffer, "PNG")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ServerFault(f"{name} is not an image that can be read; use one of: {', '.join(EXTENSIONS)}.") from error
    return Upload(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", buffer.getvalue())


def sidebar() -> tuple[str, str | None, dict[str, Any]]:
    """Server, chosen model (None when there is no server) and decoding options."""
    with st.sidebar:
        if st.button("New chat", key="clear", width="stretch", icon=":material/add_comment:"):
            st.session_state["turns"] = []
        address = st.text_input("Server", os.environ.get("MMLLM_SERVER", "http://127.0.0.1:8000"), key="server")
        server = address.strip().rstrip("/").removesuffix("/v1")
        try:
            known = models(server)
        except ServerFault as error:
            st.session_state["fault"] = str(error)
            known = {}
        if st.session_state.get("model") not in known:  # the choice of before the server changed or came up
            st.session_state["model"] = next(iter(known), None)
        model = st.selectbox("Model", list(known), key="model", disabled=not known)
        if model is not None:
            st.caption(f"Context: {known[model]} tokens, images included.")
        options: dict[str, Any] = {
            "temperature": st.slider("Temperature", 0.0, 2.0, 0.0, 0.1, key="temperature", help="0: likeliest token"),
            "top_p": st.slider("Top-p", 0.05, 1.0, 1.0, 0.05, key="top_p"),
            "max_tokens": int(st.number_input("Max tokens", 1, 8192, 64, key="max_tokens")),
        }
        seed = st.number_input("Seed", 0, 2**31 - 1, None, key="seed", placeholder="random")
        if seed is not None:
            options["seed"] = int(seed)
    return server, model, options


def show(turn: Turn) -> None:
    """One turn with its images; what the user typed is shown as typed."""
    with st.chat_message(turn.role):
        if turn.images:
            st.image([image.preview for image in turn.images], width=220)
        if turn.role == "user":
            st.text(turn.text)
        else:
            st.markdown(turn.text or "*(an empty answer)*")
        if turn.note:
            st.caption(turn.note)


def ask(server: str, model: str, options: dict[str, Any], text: str, files: list[Any]) -> None:
    """Send the question with all turns before it; an answer joins the history, a fault leaves it as it was."""
    turns: list[Turn] = st.session_state["turns"]
    images = tuple(read_upload(file.name, file.getvalue()) for file in files)
    question = Turn("user", text, images)
    show(question)
    messages = [turn.message() for turn in [*turns, question]]
    answer = Answer(server, {"model": model, "messages": messages, **options})
    with st.chat_message("assistant"):
        st.write_stream(answer.pieces())
        st.caption(answer.note())
    turns += [question, Turn("assistant", answer.text, note=answer.note())]
    del turns[:-MAX_TURNS]


def main() -> None:
    """The page, from top to bottom; Streamlit runs it anew at every click."""
    st.set_page_config(page_title="mmllm chat", page_icon="🖼️", layout="centered")
    st.session_state.setdefault("turns", [])
    st.session_state["fault"] = ""
    server, model, options = sidebar()
    st.title("mmllm chat")
    hint = "Ask about an image, or just ask"
    asked = st.chat_input(hint, key="ask", accept_file="multiple", file_type=EXTENSIONS, disabled=model is None)
    if not st.session_state["turns"] and not asked:
        st.info("Attach an image with **+**, or drop one on the field below, and ask about it.")
    for turn in st.session_state["turns"]:
        show(turn)
    if asked and model is not None:
        try:
            ask(server, model, options, asked.text, list(asked.files))
        except ServerFault as error:
            st.session_state["fault"] = str(error)
    if st.session_state["fault"]:
        st.error(st.session_state["fault"])


if __name__ == "__main__":
    main()
