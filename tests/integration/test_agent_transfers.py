"""Blobs and updates over real sockets that break: resumed at the right offset, checked, given up when hopeless."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fedhft_agent.connection import CHUNK_BYTES, Connection, Peer
from fedhft_agent.transfers import FRUITLESS_ATTEMPTS, PayloadCount, pull_blob, push_update

from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId
from fedhft.process.signals import StopSignal
from fedhft.rpc.retry import Backoff
from fedhft.v1 import federation_pb2
from tests.integration.scripted_federation import Fault, ScriptedFederation, served

DATA = np.random.default_rng(3).bytes(10_500)
RESPONSE = federation_pb2.PushUpdateResponse


@pytest.fixture
def service() -> ScriptedFederation:
    return ScriptedFederation(chunk=1000)


@pytest.fixture
def connection(service: ScriptedFederation) -> Iterator[Connection]:
    with served(service) as server:
        peer = Peer(server.address, ClientId("c"), backoff=Backoff(0.02, 0.05))
        with Connection(peer, StopSignal()) as connection:
            connection.enroll()
            yield connection


def pull(connection: Connection, service: ScriptedFederation) -> tuple[bytes, int]:
    count = PayloadCount()
    return pull_blob(connection, "job", service.publish(DATA), count), count.received


def push(connection: Connection, data: bytes = DATA, resume: bool = False) -> tuple[int, int]:
    count = PayloadCount()
    header = federation_pb2.UpdateHeader(
        job="job", round=1, digest=hashlib.sha256(data).digest() if data else b"", size=len(data)
    )
    return push_update(connection, header, data, count, resume=resume), count.sent


def test_a_blob_arrives_whole(connection: Connection, service: ScriptedFederation) -> None:
    assert pull(connection, service) == (DATA, len(DATA))
    assert service.pulled_from == [0]


def test_a_broken_pull_resumes_where_it_stood_and_fetches_no_byte_twice(
    connection: Connection, service: ScriptedFederation
) -> None:
    service.pull_faults.extend([Fault("away", 3000), Fault("away", 3500), Fault("cut", 9000)])
    assert pull(connection, service) == (DATA, len(DATA))
    assert service.pulled_from == [0, 3000, 3500, 9000]


def test_wrong_bytes_are_fetched_anew(connection: Connection, service: ScriptedFederation) -> None:
    service.pull_faults.append(Fault("corrupt", 4321))
    assert pull(connection, service)[0] == DATA
    assert service.pulled_from == [0, 0]


def test_a_stream_that_goes_past_the_size_of_its_blob_is_broken_off_there(
    connection: Connection, service: ScriptedFederation
) -> None:
    service.pull_faults.append(Fault("surplus"))
    assert pull(connection, service) == (DATA, 2 * len(DATA))


def test_a_server_that_keeps_sending_wrong_bytes_is_given_up(
    connection: Connection, service: ScriptedFederation
) -> None:
    service.pull_faults.extend([Fault("corrupt", 5)] * 20)
    with pytest.raises(FedhftError) as caught:
        pull(connection, service)
    assert caught.value.code is ErrorCode.DIGEST_MISMATCH
    assert len(service.pulled_from) == FRUITLESS_ATTEMPTS


def test_a_stream_cut_again_and_again_goes_on_as_long_as_it_gets_further(
    connection: Connection, service: ScriptedFederation
) -> None:
    service.pull_faults.extend(Fault("cut", end) for end in range(500, 10_500, 500))
    assert pull(connection, service) == (DATA, len(DATA))
    assert len(service.pulled_from) == 21


def test_a_stream_that_always_ends_at_the_same_place_is_given_up(
    connection: Connection, service: ScriptedFederation
) -> None:
    service.pull_faults.extend([Fault("cut", 2000)] * 20)
    with pytest.raises(FedhftError, match="2000 of 10500 bytes") as caught:
        pull(connection, service)
    assert caught.value.code is ErrorCode.TRUNCATED_STREAM


def test_a_blob_the_server_has_no_more_is_refused_at_once(connection: Connection, service: ScriptedFederation) -> None:
    ref = service.publish(DATA)
    service.blobs.clear()
    with pytest.raises(FedhftError) as caught:
        pull_blob(connection, "job", ref, PayloadCount())
    assert caught.value.code is ErrorCode.UNKNOWN_BLOB
    assert len(service.pulled_from) == 1


def test_an_update_arrives_whole_in_chunks_the_server_accepts(
    connection: Connection, service: ScriptedFederation
) -> None:
    assert push(connection) == (RESPONSE.RESULT_ACCEPTED, len(DATA))
    assert service.accepted == {1: DATA}
    assert max(size for _, size in service.pushed) == 1000


def test_no_byte_of_an_update_is_sent_before_the_servers_go_ahead(
    connection: Connection, service: ScriptedFederation
) -> None:
    service.turn.clear()
    count = PayloadCount()
    header = federation_pb2.UpdateHeader(job="job", round=1, digest=hashlib.sha256(DATA).digest(), size=len(DATA))
    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(push_update, connection, header, DATA, count, resume=False)
        assert service.asked.wait(20.0)
        time.sleep(0.3)
        assert (count.sent, pushing.done()) == (0, False)
        service.turn.set()
        assert pushing.result(20.0) == RESPONSE.RESULT_ACCEPTED
    assert count.sent == len(DATA)


def test_an_update_refused_before_its_turn_costs_no_byte(connection: Connection, service: ScriptedFederation) -> None:
    service.push_faults.append(Fault("refuse-header", code=ErrorCode.STALE_VERSION))
    count = PayloadCount()
    header = federation_pb2.UpdateHeader(job="job", round=1, digest=hashlib.sha256(DATA).digest(), size=len(DATA))
    with pytest.raises(FedhftError) as refused:
        push_update(connection, header, DATA, count, resume=False)
    assert (refused.value.code, count.sent) == (ErrorCode.STALE_VERSION, 0)


def test_a_broken_push_asks_what_arrived_and_goes_on_there(connection: Connection, service: ScriptedFederation) -> None:
    service.push_faults.extend([Fault("away", 4000), Fault("away", 7000)])
    result, _ = push(connection)
    assert result == RESPONSE.RESULT_ACCEPTED
    assert service.accepted == {1: DATA}
    assert [offset for offset, _ in service.pushed] == list(range(0, 10_500, 1000))


def test_a_link_too_slow_for_a_chunk_is_tried_with_smaller_ones() -> None:
    service = ScriptedFederation(chunk=CHUNK_BYTES)
    service.push_faults.append(Fault("slow", CHUNK_BYTES // 4))
    data = np.random.default_rng(4).bytes(3 * CHUNK_BYTES)
    with served(service) as server:
        peer = Peer(server.address, ClientId("c"), backoff=Backoff(0.02, 0.05))
        with Connection(peer, StopSignal()) as connection:
            connection.enroll()
            assert push(connection, data)[0] == RESPONSE.RESULT_ACCEPTED
    assert service.accepted == {1: data}
    assert {size for _, size in service.pushed} == {CHUNK_BYTES // 4}


def test_an_update_whose_acknowledgement_was_lost_is_not_sent_again(
    connection: Connection, service: ScriptedFederation
) -> None:
    service.push_faults.append(Fault("lost-answer"))
    result, sent = push(connection)
    assert result == RESPONSE.RESULT_REPEATED
    assert sent == len(DATA)


def test_after_a_restart_only_the_missing_bytes_are_sent(connection: Connection, service: ScriptedFederation) -> None:
    service.staged[hashlib.sha256(DATA).digest()] = bytearray(DATA[:6000])
    assert push(connection, resume=True) == (RESPONSE.RESULT_ACCEPTED, 4500)
    assert service.accepted == {1: DATA}


def test_bytes_left_by_an_earlier_attempt_are_found_even_when_not_asked_for_first(
    connection: Connection, service: ScriptedFederation
) -> None:
    service.staged[hashlib.sha256(DATA).digest()] = bytearray(DATA[:6000])
    assert push(connection, resume=False)[0] == RESPONSE.RESULT_ACCEPTED
    assert service.accepted == {1: DATA}


def test_a_staged_transfer_gone_bad_is_dropped_and_sent_anew(
    connection: Connection, service: ScriptedFederation
) -> None:
    service.staged[hashlib.sha256(DATA).digest()] = bytearray(b"x" * 3000)
    assert push(connection, resume=True)[0] == RESPONSE.RESULT_ACCEPTED
    assert service.accepted == {1: DATA}


def test_a_refused_update_is_not_repeated(connection: Connection, service: ScriptedFederation) -> None:
    service.push_faults.append(Fault("refuse", 1000, ErrorCode.ROUND_CLOSED))
    with pytest.raises(FedhftError) as caught:
        push(connection)
    assert caught.value.code is ErrorCode.ROUND_CLOSED


def test_an_update_of_a_method_that_shares_nothing_is_a_header_alone(
    connection: Connection, service: ScriptedFederation
) -> None:
    assert push(connection, b"", resume=True) == (RESPONSE.RESULT_ACCEPTED, 0)
    assert service.accepted == {1: b""}
    assert service.pushed == []
