"""Models that can be asked: those of every server that the user names."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import streamlit as st

from serve.client import Card, Server, ServerFault, models

DEFAULT = "http://127.0.0.1:8000"
FRESH = (10.0, 3.0)
"""Seconds for which a server's models, or why there are none, are not asked for again."""

Choice = tuple[str, str]
"""Address of a server and name of a model."""


@dataclass(frozen=True)
class Model:
    """A model that can be asked now."""

    server: Server
    name: str
    card: Card


def default_address() -> str:
    """Return the address of the server that the page was started for."""
    return tidy(os.environ.get("MMLLM_SERVER", DEFAULT))


def tidy(address: str) -> str:
    """Return an address as the API's paths go behind it."""
    return address.strip().rstrip("/").removesuffix("/v1")


def server_of(address: str, key: str) -> Server:
    """Return a server with the key that the user typed, or the page's own where it is the page's own server."""
    # the page's own key stays in this process and goes to no server but its own
    own = os.environ.get("MMLLM_KEY", "") if address == default_address() else ""
    return Server(address, key.strip() or own)


def known(servers: list[Server]) -> tuple[dict[Choice, Model], list[str]]:
    """Return all models of all servers, and what is wrong with those that tell none."""
    found: dict[Choice, Model] = {}
    faults = []
    for server in servers:
        try:
            cards = _cards(server)
        except ServerFault as error:
            faults.append(str(error))
            continue
        found |= {(server.address, name): Model(server, name, card) for name, card in cards.items()}
    return found, faults


def _cards(server: Server) -> dict[str, Card]:
    """Return a server's models, as they were a moment ago."""
    kept = st.session_state.setdefault("cards", {})
    when, found = kept.get(server, (0.0, None))
    if found is None or time.monotonic() - when > FRESH[isinstance(found, ServerFault)]:
        try:
            found = models(server)
        except ServerFault as error:
            found = error
        kept[server] = (time.monotonic(), found)
    if isinstance(found, ServerFault):
        raise found
    cards: dict[str, Card] = found
    return cards


def label(choice: Choice, several: bool) -> str:
    """Return how a model is called on the page: with its server, where there are several."""
    address, name = choice
    return f"{name} at {address.removeprefix('http://')}" if several else name
