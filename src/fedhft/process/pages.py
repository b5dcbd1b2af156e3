"""The pages of a process: `/metrics`, `/healthz`, `/readyz`, served by their own threads, away from the data path.

`/healthz` says that the process runs; `/readyz` says whether it can do its work and, if not, why (status 503).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST

from fedhft.process.http_server import IDLE_SECONDS, MAX_CONNECTIONS, BoundedHandler, BoundedServer
from fedhft.telemetry.registry import Process, render

__all__ = ["IDLE_SECONDS", "MAX_CONNECTIONS", "PagesServer", "Readiness", "serve_pages"]

Readiness = Callable[[], tuple[bool, str]]
"""Answers at once: (ready, reason when not, or what does not work although it is)."""


class PagesServer:
    """A running page server."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._server.start("pages")

    @property
    def address(self) -> str:
        """host:port actually bound."""
        return self._server.bound

    def stop(self) -> None:
        """Close the port. Waits at most a second for the accepting thread."""
        self._server.stop()


def serve_pages(
    port: int,
    ready: Readiness,
    host: str = "127.0.0.1",
    idle_s: float = IDLE_SECONDS,
    process: Process | None = None,
) -> PagesServer:
    """Serve the pages on host:port (0 picks a free port). `ready` is called per request and must not block.

    process: whose series to show; None shows all. A connection that stays silent for `idle_s` seconds is closed.
    Raises FedhftError(INVALID_ARGUMENT) when the address cannot be bound.
    """
    return PagesServer(_Server(host, port, ready, idle_s, process))


class _Server(BoundedServer):
    def __init__(self, host: str, port: int, ready: Readiness, idle_s: float, process: Process | None) -> None:
        self.ready = ready
        self.process = process
        super().__init__((host, port), _Pages, field_name="--metrics-host and --metrics-port", idle_s=idle_s)


class _Pages(BoundedHandler):
    server: _Server

    def do_GET(self) -> None:
        """Answer one page."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, render(self.server.process))
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
