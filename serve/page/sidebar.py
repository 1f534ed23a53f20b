"""The sidebar: conversations, the servers and models that are asked, and how they are."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import streamlit as st

from serve.client import Server
from serve.markup import escaped
from serve.page import actions
from serve.page.browser import browser
from serve.page.marks import SCALES
from serve.page.models import Choice, Model, default_address, known, label, server_of, tidy
from serve.page.saving import exported

MOST_SERVERS = 4
MAX_TOKENS = 256
"""Of an answer, unless the user says another number; at first no more than a quarter of the context."""


@dataclass(frozen=True)
class Settings:
    """What the sidebar says."""

    models: tuple[Model, ...]
    """Those that are asked, side by side."""
    known: dict[Choice, Model]
    """All that could be."""
    options: dict[str, Any]
    """Fields of a request: temperature and the like."""
    scale: float | None
    """Of boxes that an answer names, see ``marks.SCALES``."""
    faults: tuple[str, ...] = ()
    """What is wrong with servers."""

    def model(self, address: str, name: str) -> Model | None:
        """Return a model by its server and name, where it can be asked now."""
        return self.known.get((address, name))


def sidebar(busy: bool) -> Settings:
    """Show it, and return what it says; ``busy``: answers are being written."""
    _restore()
    with st.sidebar:
        _conversations(busy)
        st.subheader("Model")
        servers = _servers()
        found, faults = known(servers)
        several = len({address for address, _ in found}) > 1
        chosen = [_choice("model", "Model", found, several)]
        if chosen[0] is not None and len(found) > 1 and st.toggle("Side by side with another", key="compare"):
            chosen.append(_choice("second", "Second model", found, several, skip=1))
        models = tuple(found[one] for one in chosen if one is not None)
        context = min((model.card.context for model in models), default=0)
        if context:
            st.caption(f"Context: {context} tokens, media included.")
        options = _options(context)
        names = list(SCALES)
        if st.session_state.get("scale") not in SCALES:
            st.session_state["scale"] = names[0]
        scale = st.selectbox(
            "Boxes count in", names, key="scale", help="What the numbers of [x1, y1, x2, y2] in an answer are parts of."
        )
    return Settings(models, found, options, SCALES[scale], tuple(faults))


def _conversations(busy: bool) -> None:
    """Show the list of what this browser keeps, and what can be done with the conversation that is shown."""
    st.button("New chat", key="clear", width="stretch", icon=":material/add_comment:", on_click=actions.start)
    store, shown = browser(), actions.conversation()
    if store.fault:
        st.caption(escaped(store.fault))
    if store.conversations:
        with st.expander(f"Conversations ({len(store.conversations)})", key="kept"):
            for one in store.conversations:
                _entry(one, one["id"] == shown.ident, busy)
    with st.expander("Export, import", key="file"):
        name = time.strftime("chat-%Y-%m-%d-%H%M.json", time.localtime(shown.changed))
        st.download_button(
            "Export this conversation",
            lambda: exported(shown),
            name,
            "application/json",
            key="export",
            disabled=not shown.turns,
            width="stretch",
            on_click="ignore",
            icon=":material/download:",
        )
        key = f"import{st.session_state.setdefault('imports', 0)}"
        st.file_uploader("Import a conversation", "json", key=key, on_change=actions.bring_in, args=(key,))


def _entry(one: dict[str, Any], is_shown: bool, busy: bool) -> None:
    """Show one kept conversation: a button that opens it, and one that deletes it."""
    ident, title = one["id"], escaped(one["title"])
    with st.container(horizontal=True, gap="small", vertical_alignment="center", wrap=False):
        st.button(
            title,
            key=f"open-{ident}",
            type="secondary" if is_shown else "tertiary",
            disabled=busy or is_shown,
            width="stretch",
            on_click=actions.open_kept,
            args=(ident,),
        )
        st.button(
            "",
            key=f"forget-{ident}",
            icon=":material/delete:",
            type="tertiary",
            help=f"Delete: {title}",
            on_click=actions.forget,
            args=(ident,),
        )


def _servers() -> list[Server]:
    """Show fields for the address of each server and the key to it; return those that are filled in."""
    st.session_state.setdefault("server", default_address())
    count = st.session_state.setdefault("n_servers", 1)
    servers: list[Server] = []
    for number in range(count):
        suffix = str(number) if number else ""
        address = tidy(st.text_input(f"Server {number + 1}" if number else "Server", key=f"server{suffix}"))
        key = st.text_input(
            f"Key {number + 1}" if number else "Key",
            key=f"key{suffix}",
            type="password",
            help="of the API, where the server asks for one; it is not kept",
        )
        if address and address not in {one.address for one in servers}:
            servers.append(server_of(address, key))
    with st.container(horizontal=True):
        words: dict[str, Any] = {"type": "tertiary", "on_click": _count_servers}
        if count < MOST_SERVERS:
            st.button("Add a server", key="add_server", icon=":material/add:", args=(count + 1,), **words)
        if count > 1:
            st.button("Remove the last", key="remove_server", icon=":material/remove:", args=(count - 1,), **words)
    addresses = [server.address for server in servers]
    # the page's own default is not kept: the next start may have another
    st.session_state["servers"] = addresses if addresses != [default_address()] else []
    return servers


def _count_servers(count: int) -> None:
    st.session_state["n_servers"] = count


def _restore() -> None:
    """Put what this browser kept into the fields, before they are shown."""
    store = browser()
    kept, store.restored = store.restored, {}
    addresses = kept.pop("servers", [])[:MOST_SERVERS]
    for number, address in enumerate(addresses):
        st.session_state[f"server{number or ''}"] = address
    st.session_state["n_servers"] = max(len(addresses), st.session_state.get("n_servers", 1))
    for name, value in kept.items():
        st.session_state[name] = tuple(value) if isinstance(value, list) else value


def _choice(key: str, name: str, found: dict[Choice, Model], several: bool, skip: int = 0) -> Choice | None:
    """Show a box of models; return the chosen one. ``skip``: where in the list the choice begins."""
    choices = list(found)
    if st.session_state.get(key) not in found:  # the choice of before the server changed or came up
        st.session_state[key] = choices[min(skip, len(choices) - 1)] if choices else None
    chosen: Choice | None = st.selectbox(
        name, choices, key=key, disabled=not found, format_func=lambda choice: label(choice, several)
    )
    return chosen


def _options(context: int) -> dict[str, Any]:
    """Show the settings of answers; ``context``: what the number of tokens may not be over, 0: not known."""
    # not the widgets' own defaults, which may not stand beside what was kept
    st.session_state.setdefault("temperature", 0.0)
    st.session_state.setdefault("top_p", 1.0)
    options: dict[str, Any] = {
        "temperature": st.slider("Temperature", 0.0, 2.0, step=0.1, key="temperature", help="0: likeliest token"),
        "top_p": st.slider("Top-p", 0.05, 1.0, step=0.05, key="top_p"),
    }
    most = max(1, context - 1) if context else None
    if context:
        wanted = st.session_state.get("max_tokens") or max(1, min(MAX_TOKENS, context // 4))
        st.session_state["max_tokens"] = min(wanted, most or wanted)
    options["max_tokens"] = int(
        st.number_input(
            "Max tokens", 1, most, key="max_tokens", help="of an answer; fewer where the context has no room for more"
        )
    )
    st.session_state.setdefault("seed", None)
    seed = st.number_input("Seed", 0, 2**31 - 1, key="seed", placeholder="random")
    return options if seed is None else {**options, "seed": int(seed)}
