"""The aggregator's page over real sockets and a real Redis."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fedhft_aggregator.page.access import PageSettings
from fedhft_aggregator.page.server import MOST_WATCHERS, PageServer

from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.http_server import MAX_CONNECTIONS
from fedhft.records import JobStatus
from fedhft.rpc.peer import PeerCertificate
from fedhft.rpc.tls import TlsSettings
from fedhft.store.interface import Store
from fedhft.store.open import open_store
from fedhft.store.refusals import certificate_revoked
from tests.certificates import Certificates
from tests.contract.federation import ALIVE
from tests.watched_jobs import WatchedJob, names, shown_jobs, watched_spec

SOON_S = 10.0


@contextmanager
def served(redis_url: str, settings: PageSettings | None = None, **changes: Any) -> Iterator[PageServer]:
    server = PageServer(settings or PageSettings("127.0.0.1:0"), lambda: open_store(redis_url, "redis"), **changes)
    server.feed.start()
    server.start("page")
    try:
        yield server
    finally:
        server.feed.stop()
        server.stop()


@asynccontextmanager
async def stored(redis_url: str) -> AsyncIterator[Store]:
    store = open_store(redis_url, "redis")
    try:
        yield store
    finally:
        await store.close()


class Viewer:
    """A browser's side: plain requests, and streams of events."""

    def __init__(self, server: PageServer, context: ssl.SSLContext | None = None) -> None:
        host, _, port = server.bound.rpartition(":")
        self.address = (host.strip("[]"), int(port))
        self._context = context

    def connection(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(*self.address, timeout=SOON_S)
        return http.client.HTTPSConnection(*self.address, timeout=SOON_S, context=self._context)

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, dict[str, str]]:
        connection = self.connection()
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            body, told = answer.read(), dict(answer.getheaders())
        finally:
            connection.close()
        if told.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        return answer.status, json.loads(body) if told.get("Content-Type") == "application/json" else body, told

    @contextmanager
    def events(self, job: str) -> Iterator[Iterator[tuple[str, Any]]]:
        connection = self.connection()
        try:
            connection.request("GET", f"/api/events?job={job}")
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("Content-Type")) == (200, "text/event-stream")
            yield _events(answer)
            answer.close()  # it has the socket
        finally:
            connection.close()


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    name = ""
    while line := answer.readline().decode():
        if line.startswith("event: "):
            name = line.removeprefix("event: ").strip()
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def heard(events: Iterator[tuple[str, Any]], wanted: Callable[[str, Any], bool]) -> Any:
    """The first event that is wanted; fails when none comes soon."""
    until = time.monotonic() + SOON_S
    for name, told in events:
        if wanted(name, told):
            return told
        assert time.monotonic() < until, f"the last one was {name}: {told}"
    raise AssertionError("the stream ended")


async def test_a_round_that_moves_is_told_to_whoever_watches(fresh_redis_url: str) -> None:
    async with stored(fresh_redis_url) as store:
        running = await shown_jobs(store)
        with served(fresh_redis_url) as server, Viewer(server).events("tickets") as events:
            listed = heard(events, lambda name, _: name == "jobs")
            assert listed["jobs"][0]["job"] == "tickets"
            told = heard(events, lambda name, _: name == "job")
            assert (told["open"]["round"], told["open"]["accepted"]) == (13, 5)
            await running.deliver(9)
            told = heard(events, lambda name, told: name == "job" and told["open"]["accepted"] == 9)
            await running.publish()
            told = heard(events, lambda name, told: name == "job" and told["rounds_done"] == 13)
            assert [one["round"] for one in told["rounds"]] == [12, 13]
            await running.open()
            heard(events, lambda name, told: name == "job" and told["open"] and told["open"]["round"] == 14)
            await store.pause_job(running.job, "until Monday")
            heard(events, lambda name, told: name == "job" and told["paused"] == "until Monday")
            await store.set_status(running.job, JobStatus.CANCELLED, "wrong labels", ALIVE)
            heard(events, lambda name, told: name == "job" and told["reason"] == "wrong labels")


async def test_a_job_that_is_deleted_while_it_is_watched_is_told_as_gone(fresh_redis_url: str) -> None:
    async with stored(fresh_redis_url) as store:
        job = WatchedJob(store, watched_spec("short"), names(2))
        await job.start()
        await store.set_status(job.job, JobStatus.CANCELLED, "", ALIVE)
        with served(fresh_redis_url) as server, Viewer(server).events("short") as events:
            heard(events, lambda name, _: name == "job")
            await store.delete_job(job.job, [JobStatus.CANCELLED])
            told = heard(events, lambda name, told: name == "job" and "error" in told)
            assert told["gone"] is True


async def test_everything_is_read_only_and_answers_with_headers_that_keep_a_browser_in(fresh_redis_url: str) -> None:
    async with stored(fresh_redis_url) as store:
        await shown_jobs(store)
    with served(fresh_redis_url) as server:
        viewer = Viewer(server)
        for path in (
            "/",
            "/static/page.js",
            "/static/vendor/chartjs/chart.umd.min.js",
            "/api/jobs",
            "/api/jobs/tickets",
        ):
            status, body, headers = viewer.get(path, **{"Accept-Encoding": "gzip"})
            assert (status, bool(body)) == (200, True), path
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "Access-Control-Allow-Origin" not in headers
        _, _, headers = viewer.get("/static/page.js")
        status, body, _ = viewer.get("/static/page.js", **{"If-None-Match": headers["ETag"]})
        assert (status, body) == (304, b"")
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert viewer.get("/api/jobs/tickets", method)[0] == 501


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/jobs/none-such", 404, "none-such"),
        ("/api/jobs/NO%2Fid", 400, "NO/id"),
        ("/api/jobs/tickets/rounds?before=-1", 400, "before"),
        ("/api/jobs/tickets/rounds?before=9999999999999999", 400, "before"),
        ("/api/jobs/tickets/clients?after=%00", 400, "client"),
        ("/api/events?job=%3Cscript%3E", 400, "job"),
        ("/api/none-such", 404, "/api/jobs"),
        ("/static/../settings.py", 404, "nothing here"),
        ("/static/%2e%2e/server.py", 404, "nothing here"),
        ("/etc/passwd", 404, "nothing here"),
    ],
)
async def test_what_is_not_there_is_refused_in_words(fresh_redis_url: str, path: str, status: int, words: str) -> None:
    with served(fresh_redis_url) as server:
        found, body, headers = Viewer(server).get(path)
        assert (found, headers["Content-Type"]) == (status, "application/json")
        assert words in body["error"]


def test_another_hosts_name_for_loopback_is_refused(fresh_redis_url: str) -> None:
    with served(fresh_redis_url) as server:
        status, body, _ = Viewer(server).get("/api/jobs", Host="evil.example")
        assert status == 403
        assert "this machine only" in body["error"]


def test_a_store_that_is_away_is_told_and_not_waited_for_without_end(fresh_redis_url: str) -> None:
    with served("redis://127.0.0.1:1/0") as server:
        status, body, _ = Viewer(server).get("/api/jobs")
        assert status == 503
        assert "127.0.0.1:1" in body["error"]
        with Viewer(server).events("tickets") as events:
            assert "127.0.0.1:1" in heard(events, lambda name, _: name == "job")["error"]


# -- with TLS, as it is served to other machines


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def of_all(tls: TlsSettings, check: Callable[[PeerCertificate], None] | None = None) -> PageSettings:
    """As beyond loopback, on a port that the test reaches through loopback."""
    return PageSettings("0.0.0.0:0", tls, check)


def context_of(tls: TlsSettings, own: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(tls.authority))
    if own and tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context


def seen_by(server: PageServer, context: ssl.SSLContext) -> tuple[int, Any]:
    viewer = Viewer(server, context)
    viewer.address = ("127.0.0.1", viewer.address[1])
    status, body, _ = viewer.get("/api/jobs")
    return status, body


def test_operators_see_it_and_other_roles_are_refused(fresh_redis_url: str, certificates: Certificates) -> None:
    with served(fresh_redis_url, of_all(certificates.of("aggregator"))) as server:
        assert seen_by(server, context_of(certificates.of("operator/ops"))) == (200, {"jobs": [], "total": 0})
        for path in ("agent/clinic-1", "aggregator"):
            status, body = seen_by(server, context_of(certificates.of(path)))
            assert status == 403
            assert "the page is for the role operator" in body["error"]


def test_without_a_certificate_or_with_a_strangers_nothing_is_seen(
    fresh_redis_url: str, certificates: Certificates, tmp_path: Path
) -> None:
    strangers = Certificates(tmp_path / "strangers")
    with served(fresh_redis_url, of_all(certificates.of("aggregator"))) as server:
        shown = strangers.of("operator/ops")
        stranger = ssl.create_default_context(cafile=str(certificates.of("operator/ops").authority))
        stranger.load_cert_chain(str(shown.certificate), str(shown.key))
        expired = certificates.expired("operator/old")
        for context in (
            context_of(certificates.of("operator/ops"), own=False),
            stranger,
            context_of(TlsSettings(expired.certificate, expired.key, certificates.of("operator/ops").authority)),
        ):
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
                seen_by(server, context)
        with pytest.raises((ConnectionError, http.client.BadStatusLine)):
            Viewer(server).get("/api/jobs")  # plain text


async def test_a_certificate_that_is_revoked_ends_what_its_holder_watches(
    fresh_redis_url: str, certificates: Certificates
) -> None:
    revoked: set[str] = set()

    def check(certificate: PeerCertificate) -> None:
        if certificate.serial in revoked:
            raise certificate_revoked(certificate.serial)

    async with stored(fresh_redis_url) as store:
        job = WatchedJob(store, watched_spec("secret"), names(2))
        await job.start()
        context = context_of(certificates.of("operator/ops"))
        with served(fresh_redis_url, of_all(certificates.of("aggregator"), check)) as server:
            viewer = Viewer(server, context)
            viewer.address = ("127.0.0.1", viewer.address[1])
            with viewer.events("secret") as events:
                heard(events, lambda name, _: name == "job")
                revoked |= {certificate.serial for certificate in server.gate._certificates._known.values()}
                await job.open()
                refused = heard(events, lambda name, _: name == "refused")
                assert "revoked" in refused["error"]
                assert list(events) == []
            assert seen_by(server, context)[0] == 403


def test_a_renewed_certificate_is_shown_to_the_next_viewer(fresh_redis_url: str, certificates: Certificates) -> None:
    own = certificates.of("aggregator")
    with served(fresh_redis_url, of_all(own)) as server:
        before = ssl.get_server_certificate(("127.0.0.1", server.server_address[1]), timeout=SOON_S)
        certificates.renew("aggregator")
        assert ssl.get_server_certificate(("127.0.0.1", server.server_address[1]), timeout=SOON_S) != before


# -- bounds


def test_more_watchers_than_there_may_be_are_told_so_and_those_that_go_make_room(fresh_redis_url: str) -> None:
    with served(fresh_redis_url, heartbeat_s=0.3) as server:
        viewer = Viewer(server)
        watching = []
        for _ in range(MOST_WATCHERS):
            connection = viewer.connection()
            connection.request("GET", "/api/events")
            watching.append(connection.getresponse())
            assert watching[-1].status == 200
        status, body, _ = viewer.get("/api/events")
        assert status == 503
        assert str(MOST_WATCHERS) in body["error"]
        assert viewer.get("/")[0] == 200  # watchers take no place from others
        for answer in watching:
            answer.close()
        until = time.monotonic() + SOON_S
        while len(server._held) and time.monotonic() < until:
            time.sleep(0.05)
        with viewer.events("") as events:
            heard(events, lambda name, _: name == "jobs")
        assert server.feed._watched.keys() <= {"jobs"}


def test_a_watcher_that_reads_nothing_is_let_go_and_delays_nobody(fresh_redis_url: str) -> None:
    with served(fresh_redis_url, idle_s=0.5, heartbeat_s=0.2) as server:
        host, _, port = server.bound.rpartition(":")
        lazy = socket.socket()
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect((host, int(port)))
        lazy.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until = time.monotonic() + SOON_S
        while not server._held and time.monotonic() < until:
            time.sleep(0.02)
        assert len(server._held) == 1
        big, number = b'"' + b"x" * (4 << 20) + b'"', 0
        with Viewer(server).events("") as events:
            heard(events, lambda name, _: name == "jobs")
            while len(server._held) > 1 and time.monotonic() < until:
                number += 1
                server.feed.board.write("jobs", big + b" " * number)
                heard(events, lambda _, told: isinstance(told, str))
                assert Viewer(server).get("/")[0] == 200
            assert len(server._held) == 1, "the one that reads is still there, the other is not"
        lazy.close()


async def test_it_answers_although_this_loop_stands_still_and_slow_connections_fill_it(
    fresh_redis_url: str,
) -> None:
    with served(fresh_redis_url) as server:
        host, _, port = server.bound.rpartition(":")
        slow = [socket.create_connection((host, int(port)), timeout=5) for _ in range(3 * MAX_CONNECTIONS)]
        for connection in slow:
            connection.send(b"GET /api/jobs HTTP/1.1\r\nX-Slow: ")
        for _ in range(5):  # blocks the loop of the test, as a fold may block the aggregator's for a moment
            assert Viewer(server).get("/api/jobs")[0] == 200
        for connection in slow:
            connection.close()


def test_without_viewers_nothing_is_read(fresh_redis_url: str) -> None:
    with served(fresh_redis_url, heartbeat_s=0.2) as server:
        with Viewer(server).events("none-such") as events:
            heard(events, lambda name, told: name == "job" and told.get("gone"))
            assert set(server.feed._followers) == {"jobs", "job/none-such"}
        until = time.monotonic() + SOON_S
        while server.feed._followers and time.monotonic() < until:
            time.sleep(0.05)
        assert server.feed._followers == {}
        assert server.feed.board._notes == {}


def test_a_port_that_is_taken_is_refused_by_its_flag(fresh_redis_url: str) -> None:
    with served(fresh_redis_url) as server:
        with pytest.raises(FedhftError) as caught:
            PageServer(PageSettings(server.bound), lambda: open_store(fresh_redis_url, "redis"))
        assert caught.value.code is ErrorCode.INVALID_ARGUMENT
        assert caught.value.message.startswith("--page = ")
