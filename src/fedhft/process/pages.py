"""The pages of a process: `/metrics`, `/healthz`, `/readyz`, served by their own threads, away from the data path.

`/healthz` says that the process runs; `/readyz` says whether it can do its work and, if not, why (status 503).
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from fedhft.errors import ErrorCode, FedhftError
from fedhft.telemetry import metrics

logger = logging.getLogger(__name__)

Readiness = Callable[[], tuple[bool, str]]
"""Answers at once: (ready, reason when not, or what does not work although it is)."""

MAX_CONNECTIONS = 16
"""Connections served at once; for any more the one that has been served longest is closed."""
_HANDOVER_SECONDS = 1.0
IDLE_SECONDS = 5.0
"""How long a connection may stay silent."""


class PagesServer:
    """A running page server."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="pages", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """host:port actually bound."""
        host, port = self._server.server_address[:2]
        shown = host.decode() if isinstance(host, bytes) else host
        return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"

    def stop(self) -> None:
        """Close the port. Waits at most a second for the accepting thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=1.0)


def serve_pages(port: int, ready: Readiness, host: str = "127.0.0.1", idle_s: float = IDLE_SECONDS) -> PagesServer:
    """Serve the pages on host:port (0 picks a free port). `ready` is called per request and must not block.

    A connection that stays silent for `idle_s` seconds is closed.
    Raises FedhftError(INVALID_ARGUMENT) when the address cannot be bound.
    """
    try:
        server = _Server(host, port, ready, idle_s)
    except (OSError, OverflowError) as error:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "metrics address", f"{host}:{port}", f"cannot be bound ({error})",
            "choose a free port of this machine, or 0 for any",
        ) from error  # fmt: skip
    return PagesServer(server)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, host: str, port: int, ready: Readiness, idle_s: float) -> None:
        self.ready = ready
        self.idle_s = idle_s
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: dict[Any, None] = {}
        """Connections being served, in the order in which they came."""
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Pages)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            # An answer takes milliseconds. What has been here longest is slow on purpose, or lost.
            with contextlib.suppress(OSError, StopIteration):
                next(iter(self._open)).shutdown(socket.SHUT_RDWR)
            if not self._slots.acquire(timeout=_HANDOVER_SECONDS):
                self.shutdown_request(request)
                return
        self._open[request] = None
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._open.pop(request, None)
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.pop(request, None)
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("a page request from %s was cut off", client_address, exc_info=True)


class _Pages(BaseHTTPRequestHandler):
    server: _Server
    server_version = "fedhft"
    sys_version = ""

    def setup(self) -> None:
        """Bound every wait for the other side."""
        self.request.settimeout(self.server.idle_s)
        super().setup()

    def do_GET(self) -> None:
        """Answer one page."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, metrics.render())
        elif path == "/healthz":
            self._answer(HTTPStatus.OK, "application/json", b'{"healthy":true}\n')
        elif path == "/readyz":
            ready, reason = self.server.ready()
            body = json.dumps({"ready": ready, "reason": reason}) + "\n"
            status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, "application/json", body.encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"pages: /metrics /healthz /readyz\n")

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("page %s", format % args)
