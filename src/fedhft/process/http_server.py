"""An HTTP server on threads of its own, away from the data path, whose connections are bounded in number and in time.

An answer takes milliseconds. Where more connections come than there are places, the one makes way whose request has
been awaited longest: it is slow on purpose, or lost. Those whose request has come make way last. A connection that is
meant to last (server-sent events) is held: it gives its place back, and counts against a bound of its own.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fedhft.errors import ErrorCode, FedhftError

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 16
"""Connections served at once; for any more the one whose request has been awaited longest is closed."""
_LEAST_SECONDS = 0.1
"""How long a connection is served at least: on a busy machine an honest one takes longer than milliseconds."""
_HANDOVER_SECONDS = 1.0
_MOST_HEAD = 8192
IDLE_SECONDS = 5.0
"""How long a connection may stay silent."""

Tls = Callable[[], ssl.SSLContext]
"""The context for the next connection; the files it was made of may have been replaced."""


class BoundedServer(ThreadingHTTPServer):
    """Serves connections with a handler class, each on a thread. `start` and `stop` it."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[BoundedHandler],
        *,
        field_name: str,
        idle_s: float = IDLE_SECONDS,
        most_held: int = 0,
        tls: Tls | None = None,
    ) -> None:
        """Bind. address: host (IPv6 without brackets) and port, 0 for a free one; field_name: what messages call it.

        Raises FedhftError(INVALID_ARGUMENT) when the address cannot be bound.
        """
        host, port = address
        self.idle_s = idle_s
        self._tls = tls
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: dict[Any, float] = {}
        """Connections being served that are not held, in the order in which they came."""
        self._asked: set[Any] = set()
        """Those of them whose request has been read."""
        self._held_slots = threading.Semaphore(most_held)
        self._held: set[Any] = set()
        self._thread: threading.Thread | None = None
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), handler)
        except (OSError, OverflowError) as error:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, field_name, f"{host}:{port}", f"cannot be bound ({error})",
                "choose a free port of this machine, or 0 for any",
            ) from error  # fmt: skip

    @property
    def bound(self) -> str:
        """host:port actually bound."""
        host, port = self.server_address[:2]
        shown = host.decode() if isinstance(host, bytes) else host
        return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"

    def start(self, name: str) -> None:
        """Accept connections on a thread of this name."""
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port and what is held. Waits at most a second for the accepting thread."""
        if self._thread is not None:
            self.shutdown()
            self._thread.join(timeout=1.0)
        self.server_close()
        for connection in list(self._held):
            _close(connection)

    def hold(self, connection: Any) -> bool:
        """Let a connection last; it gives its place to others. False when too many are held already."""
        if not self._held_slots.acquire(blocking=False):
            return False
        self._held.add(connection)
        if self._open.pop(connection, None) is not None:
            self._slots.release()
        return True

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection; its handshake comes later, on its own thread."""
        connection, address = super().get_request()
        if self._tls is not None:
            try:
                connection = self._tls().wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            except OSError:  # it has gone already
                connection.close()
                raise
        connection.settimeout(self.idle_s)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread, or make room for it first."""
        if not self._slots.acquire(blocking=False) and not self._make_room():
            self.shutdown_request(request)
            return
        self._open[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._release(request)
            raise

    def asked(self, connection: Any) -> None:
        """Note that a connection has sent its request."""
        self._asked.add(connection)

    def _make_room(self) -> bool:
        """Take the place of the connection awaited longest, not before its time. False when none is free."""
        while True:
            slowest = self._slowest()
            if slowest is None:  # one that ended meanwhile has left a place
                break
            connection, since = slowest
            if self._slots.acquire(timeout=max(0.0, since + _LEAST_SECONDS - time.monotonic())):
                return True
            if self._slowest() == slowest:
                _close(connection)
                break
        return self._slots.acquire(timeout=_HANDOVER_SECONDS)

    def _slowest(self) -> tuple[Any, float] | None:
        """The oldest connection whose request has not come, else the oldest; None when none is open."""
        served = list(self._open.copy().items())
        waiting = (one for one in served if one[0] not in self._asked and not _request_arrived(one[0]))
        return next(waiting, served[0] if served else None)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._release(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note a connection that broke."""
        logger.debug("a request from %s was cut off", client_address, exc_info=True)

    def _release(self, request: Any) -> None:
        self._asked.discard(request)
        if request in self._held:
            self._held.discard(request)
            self._held_slots.release()
        elif self._open.pop(request, None) is not None:
            self._slots.release()


class BoundedHandler(BaseHTTPRequestHandler):
    """Answers requests of one connection; waits for the other side no longer than the server says."""

    server: BoundedServer
    server_version = "fedhft"
    sys_version = ""

    def setup(self) -> None:
        """With TLS, shake hands. Raises OSError (ssl.SSLError is one)."""
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()

    def parse_request(self) -> bool:
        """Read the request's head."""
        read = super().parse_request()
        if read:
            self.server.asked(self.request)
        return read

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are logged for those who look for faults only."""
        logger.debug("page %s", format % args)


def _request_arrived(connection: Any) -> bool:
    """Whether a whole head of a request waits to be read; under TLS that is not known."""
    if isinstance(connection, ssl.SSLSocket):
        return False
    try:
        with connection.dup() as other:  # one that does not wait, whatever another thread reads meanwhile
            other.setblocking(False)
            return b"\r\n\r\n" in other.recv(_MOST_HEAD, socket.MSG_PEEK)
    except OSError:
        return False


def _close(connection: Any) -> None:
    with contextlib.suppress(OSError, ValueError):
        connection.shutdown(socket.SHUT_RDWR)
