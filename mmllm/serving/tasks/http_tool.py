"""A tool behind an address: the request goes to a host of the operator's list, to an address that was looked at first.

A model's answer chooses which tool is asked, never where it is. A host's name may still lead inside the network, now or
later (DNS rebinding), so every address it has is looked at and the connection is made to the one that was seen.
Redirects are not followed, proxies of the environment not used.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import time
from collections.abc import Collection
from typing import Any

import httpx

from mmllm.errors import MmllmError

MOST_BYTES = 8_388_608
"""Of a tool's answer."""
NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""Its addresses hold IPv4 ones, which a gateway of the network translates (RFC 6052)."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ToolError(MmllmError):
    """A tool did not answer as it should; the client is told that it failed, the log why."""


def host_of(url: httpx.URL) -> str:
    """Return host and port as the list of hosts has them: ``tools.example.org``, ``127.0.0.1:9000``, ``[::1]:9000``."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return host if url.port is None else f"{host}:{url.port}"


def check_url(text: str, hosts: Collection[str]) -> httpx.URL:
    """Return an address that may be asked; MmllmError says why another may not."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise MmllmError(f"{text[:200]!r} is no URL ({error})") from error
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise MmllmError(f"{text[:200]!r} is no http:// or https:// URL without a user")
    if host_of(url) not in hosts:
        raise MmllmError(f"{host_of(url)} is none of hosts: [{', '.join(sorted(hosts))}]; add it to let it be asked")
    return url


def ask(url: httpx.URL, body: dict[str, Any], timeout: float) -> Any:
    """Post a body of JSON and return the JSON of the answer.

    Args:
        url: as :func:`check_url` returned it.
        body: what is sent.
        timeout: seconds until the whole answer has to be there.

    Raises:
        ToolError: no connection, an address inside the network, any status but 200, no JSON, too much or too late.
    """
    until = time.monotonic() + timeout
    address = _address(url)
    literal = f"[{address}]" if address.version == 6 else str(address)
    headers = {"host": host_of(url), "accept": "application/json", "accept-encoding": "identity"}
    try:
        # the connection goes to the address, the certificate and the host's header are those of the name
        with (
            httpx.Client(trust_env=False, follow_redirects=False, timeout=timeout) as client,
            client.stream(
                "POST",
                url.copy_with(host=literal),
                json=body,
                headers=headers,
                extensions={"sni_hostname": url.host},
            ) as answer,
        ):
            if answer.status_code != 200:
                raise ToolError(f"{url} answered {answer.status_code}")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise ToolError(f"{url} compressed its answer, which may become too much")
            found = bytearray()
            for piece in answer.iter_raw(65_536):
                found += piece
                if len(found) > MOST_BYTES:
                    raise ToolError(f"{url} answered with more than {MOST_BYTES} bytes")
                if time.monotonic() > until:
                    raise ToolError(f"{url} took longer than {timeout:g} s")
    except httpx.HTTPError as error:
        raise ToolError(f"{url} could not be asked ({type(error).__name__})") from error
    try:
        return json.loads(found)
    except (ValueError, RecursionError) as error:
        raise ToolError(f"{url} answered with something else than JSON") from error


def _address(url: httpx.URL) -> Address:
    """Return the first address of a host; ToolError where any of them is inside a network and not named as such."""
    try:
        return ipaddress.ip_address(url.host)  # in the list as it stands: that is what the operator means
    except ValueError:
        pass
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    try:
        found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ToolError(f"{url.host} has no address ({error})") from error
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    inside = next((one for one in addresses if not _is_public(one)), None)
    if inside is not None:
        raise ToolError(f"{url.host} leads to {inside}, which is not public; a tool inside is named by its address")
    return addresses[0]


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        held = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in NAT64:
            held = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if held:
            return _is_public(held)
    return address.is_global and not address.is_multicast
