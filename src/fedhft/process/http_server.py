"""An HTTP server on threads of its own, away from the data path, whose connections are bounded in number and in time.

An answer takes milliseconds. Where more connections come than there are places, the one that has been served longest
makes way: it is slow on purpose, or lost. A connection that is meant to last (server-sent events) is held: it gives
its place back, and counts against a bound of its own.
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
"""Connections served at once; for any more the one that has been served longest is closed."""
_LEAST_SECONDS = 0.1
"""How long a connection is served at least: on a busy machine an honest one takes longer than milliseconds."""
_HANDOVER_SECONDS = 1.0
IDLE_SECONDS = 5.0
"""How long a connection may stay silent."""

Tls = Callable[[], ssl.SSLContext]
"""The context for the next connection; the files it was made of may have been replaced."""


class BoundedServer(ThreadingHTTPServer):
    """Serves connections with a handler class, each on a thread. `start` and `stop` it."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

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

    def _make_room(self) -> bool:
        """Take the place of the connection served longest, not before its time. False when none is free."""
        try:
            longest, since = next(iter(self._open.items()))
        except (StopIteration, RuntimeError):  # one that ends meanwhile changes what is iterated, and leaves a place
            return self._slots.acquire(timeout=_HANDOVER_SECONDS)
        if self._slots.acquire(timeout=max(0.0, since + _LEAST_SECONDS - time.monotonic())):
            return True
        _close(longest)
        return self._slots.acquire(timeout=_HANDOVER_SECONDS)

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
        """Bound every wait for the other side; with TLS, shake hands. Raises OSError (ssl.SSLError is one)."""
        self.request.settimeout(self.server.idle_s)
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are logged for those who look for faults only."""
        logger.debug("page %s", format % args)


def _close(connection: Any) -> None:
    with contextlib.suppress(OSError, ValueError):
        connection.shutdown(socket.SHUT_RDWR)
