"""The HTTP proxy that gRPC would take to a server, and asking it for a way there.

gRPC reads the variables grpc_proxy, https_proxy and http_proxy, in this order and in lower case only, and leaves them
aside for hosts that end with an entry of no_grpc_proxy or, where that is not set, of no_proxy.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import socket
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from fedhft.errors import ErrorCode, FedhftError

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Where gRPC looks for a proxy."""
EXCEPTIONS = ("no_grpc_proxy", "no_proxy")
"""Where gRPC looks for hosts that are dialled directly."""

_DEFAULT_PORT = 443
_LONGEST_ANSWER = 8192
_SHOWN = 100
"""Characters that are shown of what a proxy answered."""


class Proxy(NamedTuple):
    """A proxy as its variable names it."""

    variable: str
    host: str
    port: int
    credentials: str
    """user:password, never shown; empty for none."""

    @property
    def place(self) -> str:
        """What messages call it."""
        return f"{self.host}:{self.port}"


def proxy_of(host: str) -> Proxy | None:
    """The proxy that gRPC takes to a host that is not this machine; None where it dials directly."""
    variable = next((name for name in VARIABLES if os.environ.get(name)), None)
    if variable is None or _is_excepted(host):
        return None
    try:
        url = urlsplit(os.environ[variable])
        port = url.port or _DEFAULT_PORT
    except ValueError:
        return None
    if url.scheme != "http" or not url.hostname:
        return None  # gRPC ignores it as well
    credentials = ":".join(unquote(part) for part in (url.username, url.password) if part)
    return Proxy(variable, url.hostname, port, credentials)


def open_tunnel(connection: socket.socket, proxy: Proxy, server: str) -> None:
    """Ask a proxy for a way to host:port. Raises FedhftError(PROXY_REFUSED) with what it answered, or OSError."""
    lines = [f"CONNECT {server} HTTP/1.1", f"Host: {server}"]
    if proxy.credentials:
        lines.append("Proxy-Authorization: Basic " + base64.b64encode(proxy.credentials.encode()).decode("ascii"))
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < _LONGEST_ANSWER:
        # Byte by byte: what follows the answer comes from the server.
        more = connection.recv(1)
        if not more:
            break
        answer += more
    first = answer.split(b"\r\n", 1)[0].decode("latin-1")
    version, _, rest = first.partition(" ")
    if version.startswith("HTTP/") and rest.startswith("2"):
        return
    shown = "".join(letter if letter.isprintable() else "?" for letter in first[:_SHOWN])
    said = f"answers {shown!r} to CONNECT {server}" if shown else f"ends the connection at CONNECT {server}"
    raise refused(proxy, server, said)


def refused(proxy: Proxy, server: str, problem: str) -> FedhftError:
    """The proxy is in the way."""
    host = server.rpartition(":")[0]
    return FedhftError(
        ErrorCode.PROXY_REFUSED,
        f"the proxy {proxy.place}, which the variable {proxy.variable} names, {problem}; put {host} into no_proxy if "
        f"it is reached without a proxy, or let the proxy pass connections to {server}",
    )


def _is_excepted(host: str) -> bool:
    text = next((os.environ[name] for name in EXCEPTIONS if os.environ.get(name)), "")
    bare = host.strip("[]").lower()
    return any(
        bare.endswith(entry) or _within(bare, entry) for part in text.split(",") if (entry := part.strip().lower())
    )


def _within(host: str, network: str) -> bool:
    """Whether a host is an address in a network such as 10.0.0.0/8."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
