"""Who may ask: names the server answers to, API keys, and how much each key may ask. Checked before a body is read."""

from __future__ import annotations

import ipaddress
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mmllm.serving.keys import Key, KeyFile
from mmllm.serving.schema import ApiError, error_response

FREE = ("/health", "/ready")
"""Paths that need no key: what watches a server has none."""
COUNTED = "POST"
"""Method of the requests that a key's limits are about: all that make the model or a reader of files work."""
MINUTE = 60.0


@dataclass(frozen=True)
class Access:
    """Settings of who may ask. By default the machine's own users, who need no key."""

    hosts: frozenset[str] = frozenset()
    """Names besides the loopback's under which the server may be asked, in lower case; ``*``: any."""
    origins: tuple[str, ...] = ()
    """Origins of web pages whose scripts may call the API (CORS)."""
    keys: KeyFile | None = None
    open: bool = False
    """Whether others than this machine's users may ask without a key."""

    def knows(self, host: str, local: str) -> bool:
        """Return whether a ``Host`` header names this server, reached at its address ``local``.

        A web page can make its own name point at the loopback (DNS rebinding); then its scripts, which the browser
        takes for the same origin, would read the answers. The header still says the page's name.
        """
        name = host_name(host)
        return "*" in self.hosts or name in self.hosts or name == local.lower() or is_loopback(name)


def host_name(host: str) -> str:
    """Return the name or address of a ``Host`` header, without port and brackets, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def is_loopback(name: str) -> bool:
    """Return whether a name or address is this machine's own."""
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761: never resolved elsewhere
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@dataclass
class Meter:
    """Requests of one key: how many are open, and when those of the last minute came."""

    n_open: int = 0
    came: deque[float] = field(default_factory=deque)

    def take(self, key: Key, now: float) -> None:
        """Count a request; ApiError 429 where the key has no more."""
        while self.came and self.came[0] <= now - MINUTE:
            self.came.popleft()
        if key.at_once is not None and self.n_open >= key.at_once:
            raise _too_many(f"This key has {self.n_open} requests open, as many as it may have at once", 1)
        if key.per_minute is not None and len(self.came) >= key.per_minute:
            wait = max(1, -int(-(self.came[0] + MINUTE - now) // 1))
            raise _too_many(f"This key has asked {key.per_minute} times within a minute, as often as it may", wait)
        self.n_open += 1
        if key.per_minute is not None:
            self.came.append(now)


class Guard:
    """Middleware that lets a request through, or answers it before its body is read.

    The key's name and entry are at ``scope["state"]["key"]``; None where the server has no keys.
    """

    def __init__(self, app: ASGIApp, access: Access, clock: Callable[[], float] = time.monotonic) -> None:
        self.app, self.access, self.clock = app, access, clock
        self._meters: dict[str, Meter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one exchange; only HTTP is let in."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None
        try:
            self._check_host(scope)
            found = self._key(scope)
            scope.setdefault("state", {})["key"] = found
            meter = self._meter(scope, found)
        except ApiError as error:
            return await error_response(error)(scope, receive, send)
        try:
            return await self.app(scope, receive, send)
        finally:
            if meter is not None:
                meter.n_open -= 1

    def _check_host(self, scope: Scope) -> None:
        hosts = Headers(scope=scope).getlist("host")
        if len(hosts) != 1 or not self.access.knows(hosts[0], _local(scope)):
            named = repr(hosts[0][:100]) if hosts else "nothing"
            message = f"This server is not known as {named}; name it with --allow-host (serve: hosts: in the recipe)."
            raise ApiError(421, message, code="unknown_host")

    def _key(self, scope: Scope) -> tuple[str, Key] | None:
        keys = self.access.keys
        if scope["path"] in FREE:
            return None
        if keys is None:
            if not self.access.open and not is_local(_local(scope)):
                message = "This server has no keys, so it answers on its own machine only (--keys FILE, or --open)."
                raise ApiError(403, message, code="no_keys")
            return None
        kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        found = keys.find(token.strip())
        if kind.lower() != "bearer" or found is None:
            wrong = "is not known" if token else "is needed"
            message = f"An API key {wrong}; send it as the header Authorization: Bearer KEY."
            raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return found

    def _meter(self, scope: Scope, found: tuple[str, Key] | None) -> Meter | None:
        if found is None or scope["method"] != COUNTED:
            return None
        meter = self._meters.setdefault(found[0], Meter())
        meter.take(found[1], self.clock())
        return meter


def _local(scope: Scope) -> str:
    """Return the address of this machine at which a connection came in; of a Unix socket its path."""
    server = scope.get("server")
    return str(server[0]) if server else ""


def is_local(address: str) -> bool:
    """Return whether only this machine's users reach an address: the loopback, or a Unix socket."""
    return not address or address.startswith("/") or is_loopback(address)


def _too_many(message: str, wait: int) -> ApiError:
    headers = {"Retry-After": str(wait)}
    return ApiError(429, f"{message}; try again in {wait} s.", code="rate_limit_exceeded", headers=headers)
