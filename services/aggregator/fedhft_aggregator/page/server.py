"""The page's own HTTP server: read-only, on an address and on threads of its own.

/                                     the page; /static/ has what it is made of
/api/jobs                             the list of jobs
/api/jobs/NAME                        one job, with its rounds (thinned out where they are many)
/api/jobs/NAME/rounds?before=ROUND    a page of its rounds
/api/jobs/NAME/clients?after=CLIENT   a page of its clients
/api/events?job=NAME                  server-sent events: `jobs` and `job`, whenever one changes
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import parse_client_id, parse_job_id
from fedhft.process.http_server import IDLE_SECONDS, BoundedHandler, BoundedServer
from fedhft.store.interface import Store
from fedhft_aggregator.page.access import FIELD, Gate, PageSettings, Recheck
from fedhft_aggregator.page.assets import read_assets
from fedhft_aggregator.page.feed import Feed
from fedhft_aggregator.page.views import encoded

log = logging.getLogger(__name__)

MOST_WATCHERS = 32
"""Browsers that are told of changes at once; any more ask again every few seconds."""
HEARTBEAT_S = 15.0
"""How often a stream without news says that it is there; a browser that has gone is noticed then."""
_ZIP_FROM = 1024
_JOB = re.compile(r"/api/jobs/([^/]+)(?:/(rounds|clients))?")
_STATUS = {
    ErrorCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    ErrorCode.UNKNOWN_JOB: HTTPStatus.NOT_FOUND,
    ErrorCode.NOT_AUTHORISED: HTTPStatus.FORBIDDEN,
    ErrorCode.CERTIFICATE_REVOKED: HTTPStatus.FORBIDDEN,
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class PageServer(BoundedServer):
    """A running page."""

    def __init__(
        self,
        settings: PageSettings,
        open_store: Callable[[], Store],
        *,
        idle_s: float = IDLE_SECONDS,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """Bind. Raises FedhftError(INVALID_ARGUMENT) for an address or TLS files that cannot be used."""
        self.gate = Gate(settings)
        self.assets = read_assets()
        self.heartbeat_s = heartbeat_s
        super().__init__(
            settings.address, _Handler, field_name=FIELD, idle_s=idle_s, most_held=MOST_WATCHERS, tls=self.gate.tls
        )
        self.feed = Feed(open_store)


@contextlib.contextmanager
def page(settings: PageSettings | None, open_store: Callable[[], Store]) -> Iterator[str | None]:
    """Serve the page while inside; yields its host:port, or None without settings. Raises FedhftError."""
    if settings is None:
        yield None
        return
    server = PageServer(settings, open_store)
    try:
        server.feed.start()
        server.start("page")
        log.info("the page is served", extra={"page": server.bound, "tls": server.gate.tls is not None})
        yield server.bound
    finally:
        server.feed.stop()
        server.stop()


class _Handler(BoundedHandler):
    server: PageServer
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"

    def do_GET(self) -> None:
        """Answer one request."""
        target = urlsplit(self.path)
        try:
            recheck = self.server.gate.admit(self.request, self.headers.get("Host", ""))
            asset = self.server.assets.get(target.path)
            if asset is not None:
                self._send_asset(asset)
            elif target.path == "/api/events":
                self._stream(_one(target.query, "job"), recheck)
            elif target.path.startswith("/api/"):
                self._answer(HTTPStatus.OK, self._read(target.path, target.query))
            else:
                self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here; the page is at /")
        except FedhftError as error:
            self._refuse(_STATUS.get(error.code, HTTPStatus.SERVICE_UNAVAILABLE), error.message)

    def end_headers(self) -> None:
        """Every answer has the headers that keep a browser from doing more than the page."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def _read(self, path: str, query: str) -> Any:
        ask = self.server.feed.ask
        if path == "/api/jobs":
            return ask(lambda readings: readings.jobs())
        match = _JOB.fullmatch(path)
        if match is None:
            raise FedhftError(ErrorCode.UNKNOWN_JOB, "there is nothing at this address; see /api/jobs")
        job = parse_job_id(unquote(match[1]))
        if match[2] == "rounds":
            before = _number(query, "before")
            return ask(lambda readings: readings.rounds(job, before))
        if match[2] == "clients":
            text = _one(query, "after")
            after = parse_client_id(text) if text else ""
            return ask(lambda readings: readings.clients(job, after))
        return ask(lambda readings: readings.job(job))

    def _stream(self, job: str, recheck: Recheck) -> None:
        """Server-sent events until the browser goes away, or may no longer look."""
        name = parse_job_id(job) if job else None
        if not self.server.hold(self.request):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_WATCHERS} browsers are told of changes already")
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(b"retry: 2000\n\n")
        with self.server.feed.watching(name) as notes:
            try:
                self._tell(notes, recheck)
            except FedhftError as error:  # the viewer may no longer look
                self._event("refused", encoded({"error": error.message}))

    def _tell(self, notes: tuple[str, ...], recheck: Recheck) -> None:
        board, seen = self.server.feed.board, dict[str, int]()
        while not board.closed:
            news = board.read(notes, seen, self.server.heartbeat_s)
            recheck()
            for note, (number, text) in news.items():
                seen[note] = number
                self._event(note.partition("/")[0], text)
            if not news:
                self.wfile.write(b": still here\n\n")

    def _event(self, name: str, text: bytes) -> None:
        self.wfile.write(b"event: " + name.encode() + b"\ndata: " + text + b"\n\n")

    def _send_asset(self, asset: Any) -> None:
        if self.headers.get("If-None-Match") == asset.tag:
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self.end_headers()
            return
        zipped = self._takes_gzip()
        headers = {"ETag": asset.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        self._send(HTTPStatus.OK, asset.content_type, asset.zipped if zipped else asset.data, zipped, headers)

    def _answer(self, status: HTTPStatus, value: Any) -> None:
        body = encoded(value)
        zipped = len(body) >= _ZIP_FROM and self._takes_gzip()
        if zipped:
            body = gzip.compress(body, 3, mtime=0)
        self._send(status, "application/json", body, zipped, {"Cache-Control": "no-store"})

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        with contextlib.suppress(OSError):
            self._answer(status, {"error": message})

    def _send(self, status: HTTPStatus, content_type: str, body: bytes, zipped: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if zipped:
            self.send_header("Content-Encoding", "gzip")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _takes_gzip(self) -> bool:
        return "gzip" in self.headers.get("Accept-Encoding", "")


def _one(query: str, name: str) -> str:
    """A parameter of a query; empty when it is absent. Raises FedhftError(INVALID_ARGUMENT)."""
    try:
        given = parse_qs(query, max_num_fields=8).get(name, [""])
    except ValueError as error:
        raise FedhftError.field(ErrorCode.INVALID_ARGUMENT, "query", query, str(error), f"give {name} once") from error
    return given[0]


def _number(query: str, name: str) -> int:
    text = _one(query, name) or "0"
    if not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise FedhftError.field(ErrorCode.INVALID_ARGUMENT, name, text, "is not a number", "give a round's number")
    return int(text)
