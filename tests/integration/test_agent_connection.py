"""The agent's connection: patience, leases, stopping, counted bytes; over real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from fedhft_agent.connection import DEFECTS_IN_A_ROW, Connection, Peer
from fedhft_agent.transfers import PayloadCount, pull_blob

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId
from fedhft.process.signals import StopSignal
from fedhft.rpc.retry import Backoff, CallStoppedError
from tests.integration.scripted_federation import Fault, ScriptedFederation, ServerThread, served


@pytest.fixture
def service() -> ScriptedFederation:
    return ScriptedFederation()


@pytest.fixture
def server(service: ScriptedFederation) -> Iterator[ServerThread]:
    with served(service) as thread:
        yield thread


@pytest.fixture
def stop() -> StopSignal:
    return StopSignal()


@pytest.fixture
def connection(server: ServerThread, stop: StopSignal) -> Iterator[Connection]:
    peer = Peer(server.address, ClientId("c"), backoff=Backoff(0.05, 0.2))
    with Connection(peer, stop) as connection:
        connection.enroll()
        yield connection


def test_a_server_that_is_away_for_two_seconds_is_waited_for(server: ServerThread, connection: Connection) -> None:
    server.stop()
    threading.Timer(2.0, server.start).start()
    started = time.monotonic()
    connection.next_task("job", [], wait_ms=0)
    assert time.monotonic() - started > 1.5


def test_a_server_that_stays_away_is_given_up_after_the_time_allowed(server: ServerThread, stop: StopSignal) -> None:
    server.stop()
    peer = Peer(server.address, ClientId("c"), give_up_after_s=0.5, backoff=Backoff(0.05, 0.2))
    with Connection(peer, stop) as connection, pytest.raises(FedhftError) as caught:
        connection.enroll()
    assert caught.value.code is ErrorCode.SERVER_UNAVAILABLE


def test_a_server_that_forgot_the_agent_is_told_again_and_the_call_repeated(
    service: ScriptedFederation, connection: Connection
) -> None:
    service.known = False
    service.calls.clear()
    connection.next_task("job", [], wait_ms=0)
    assert service.calls == ["NextTask", "Enroll", "NextTask"]


def test_a_pull_goes_on_after_the_server_forgot_the_agent(service: ScriptedFederation, connection: Connection) -> None:
    service.known = False
    assert pull_blob(connection, "job", service.publish(b"abc" * 1000), PayloadCount()) == b"abc" * 1000


def test_a_superseded_lease_ends_the_call_and_is_not_taken_back(
    service: ScriptedFederation, connection: Connection
) -> None:
    service.superseded = True
    service.calls.clear()
    with pytest.raises(FedhftError) as caught:
        connection.next_task("job", [], wait_ms=0)
    assert caught.value.code is ErrorCode.LEASE_SUPERSEDED
    assert "Enroll" not in service.calls


def test_a_store_that_is_full_or_away_is_waited_for(service: ScriptedFederation, connection: Connection) -> None:
    service.call_faults.extend(
        [Fault("refuse", code=ErrorCode.STORE_UNAVAILABLE), Fault("refuse", code=ErrorCode.STORE_FULL), Fault("away")]
    )
    connection.next_task("job", [], wait_ms=0)
    assert service.calls.count("NextTask") == 4


def test_a_defect_of_the_server_is_believed_after_a_few_attempts(
    service: ScriptedFederation, connection: Connection
) -> None:
    service.call_faults.extend([Fault("refuse", code=ErrorCode.INTERNAL)] * 50)
    with pytest.raises(FedhftError) as caught:
        connection.next_task("job", [], wait_ms=0)
    assert caught.value.code is ErrorCode.INTERNAL
    assert service.calls.count("NextTask") == DEFECTS_IN_A_ROW


def test_a_stop_request_ends_a_long_poll_at_once(connection: Connection, stop: StopSignal) -> None:
    threading.Timer(0.3, stop.request).start()
    started = time.monotonic()
    with pytest.raises(CallStoppedError):
        connection.next_task("job", [], wait_ms=5000)
    assert time.monotonic() - started < 2.0


def test_a_stop_request_ends_the_wait_for_a_server_that_is_away(server: ServerThread, stop: StopSignal) -> None:
    server.stop()
    threading.Timer(0.3, stop.request).start()
    peer = Peer(server.address, ClientId("c"), backoff=Backoff(20.0, 30.0))
    started = time.monotonic()
    with Connection(peer, stop) as connection, pytest.raises(CallStoppedError):
        connection.enroll()
    assert time.monotonic() - started < 5.0


def test_the_meter_counts_what_a_blob_costs_and_little_more(
    service: ScriptedFederation, connection: Connection
) -> None:
    data = bytes(200_000)
    before = connection.meter.sample()
    pull_blob(connection, "job", service.publish(data), PayloadCount())
    after = connection.meter.sample()
    received = after.received - before.received
    assert len(data) < received < 1.05 * len(data)
    assert after.sent - before.sent < 5000


def test_contact_is_reported_for_the_readiness_page(server: ServerThread, stop: StopSignal) -> None:
    heard: list[bool] = []
    peer = Peer(server.address, ClientId("c"), backoff=Backoff(0.05, 0.2))
    with Connection(peer, stop, heard.append) as connection:
        connection.enroll()
        server.stop()
        threading.Timer(0.5, server.start).start()
        connection.next_task("job", [], wait_ms=0)
    assert heard[0] is True
    assert False in heard
    assert heard[-1] is True
