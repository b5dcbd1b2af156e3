"""Keep-alive, TLS and byte counts of real connections."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.rpc.channel import ChannelSettings, open_aio_channel, open_channel
from fedhft.rpc.keepalive import KeepAlive
from fedhft.rpc.sockets import SocketBytes, SocketMeter
from fedhft.rpc.status import error_from_rpc
from fedhft.rpc.tls import TlsSettings
from tests.certificates import Certificates
from tests.integration.rpc_service import call, served


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


async def test_a_connection_without_calls_stays_open() -> None:
    # A server that finds the pings too many lets running calls finish, so only an idle connection shows it.
    keepalive = KeepAlive(interval_s=0.5, answer_s=1.0)
    peers: list[str] = []

    async def note(request: bytes, context: Any) -> None:
        peers.append(context.peer())

    async with (
        served(note, keepalive=keepalive) as server,
        open_aio_channel(ChannelSettings(server.address, own_connection=True, keepalive=keepalive)) as channel,
    ):
        await call(channel, "unary_unary")
        await asyncio.sleep(4.0)  # gRPC pings once a second at most, and the third unwelcome ping ends the connection
        await call(channel, "unary_unary")
    assert len(set(peers)) == 1


async def test_a_client_that_pings_faster_than_its_server_allows_is_sent_away() -> None:
    # The counterpart: why both sides are configured by one value.
    async def wait(request: bytes, context: Any) -> None:
        await asyncio.sleep(10)

    async with (
        served(wait, keepalive=KeepAlive(interval_s=60.0)) as server,
        open_aio_channel(ChannelSettings(server.address, keepalive=KeepAlive(interval_s=0.2, answer_s=1.0))) as channel,
    ):
        with pytest.raises(grpc.RpcError) as caught:
            await call(channel, "unary_unary", timeout=9)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


async def test_a_proxy_is_not_asked_for_this_machine_and_is_named_where_it_may_be_in_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer(request: bytes, context: Any) -> None:
        return None

    for name in ("no_proxy", "no_grpc_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
    async with served(answer) as server:
        async with open_aio_channel(ChannelSettings(server.address, own_connection=True)) as channel:
            await call(channel, "unary_unary")
        async with open_aio_channel(ChannelSettings("server.example:50051", own_connection=True)) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                await call(channel, "unary_unary", timeout=5)
    message = error_from_rpc(caught.value).message
    assert "http_proxy is set, so put the server's host into no_proxy" in message
    assert "secret" not in message


async def test_the_meter_counts_what_a_connection_carried_both_ways() -> None:
    async def grow(request: bytes, context: Any) -> None:
        return None

    async with served(grow) as server:
        client = SocketMeter(remote_ports={port(server.address)})
        host = SocketMeter(local_ports={port(server.address)})
        assert client.supported
        assert client.sample() == host.sample() == SocketBytes(0, 0)
        async with open_aio_channel(ChannelSettings(server.address, own_connection=True)) as channel:
            for _ in range(3):
                await call(channel, "unary_unary", b"x" * 1_000_000)
            await asyncio.sleep(0.1)  # the last acknowledgement
            there, back = client.sample(), host.sample()
        for carried in (there.sent, there.received, back.sent, back.received):
            assert 3_000_000 < carried < 3_030_000
        assert abs(there.sent - back.received) <= 64
        assert abs(there.received - back.sent) <= 64


async def test_closed_connections_stay_in_the_sum() -> None:
    async with served() as server:
        meter = SocketMeter(remote_ports={port(server.address)})
        totals = []
        for _ in range(3):
            async with open_aio_channel(ChannelSettings(server.address, own_connection=True)) as channel:
                await call(channel, "unary_unary", b"x" * 100_000)
                await asyncio.sleep(0.1)
                totals.append(meter.sample().sent)
        await asyncio.sleep(0.1)
        totals.append(meter.sample().sent)
        assert 100_000 < totals[0] < 105_000
        assert 200_000 < totals[1] < 210_000
        assert 300_000 < totals[2] < 315_000
        assert totals[3] == pytest.approx(totals[2], abs=64)


async def test_a_meter_of_other_ports_sees_nothing() -> None:
    async with served() as server, open_aio_channel(ChannelSettings(server.address)) as channel:
        meter = SocketMeter(remote_ports={1})
        await call(channel, "unary_unary", b"x" * 100_000)
        assert meter.sample() == SocketBytes(0, 0)
        assert SocketMeter().sample().sent > 100_000


async def test_a_channel_of_its_own_has_a_connection_of_its_own() -> None:
    peers: list[str] = []

    async def note(request: bytes, context: Any) -> None:
        peers.append(context.peer())

    async with served(note) as server:
        for own in (True, False):
            peers.clear()
            settings = ChannelSettings(server.address, own_connection=own)
            with open_channel(settings) as first, open_channel(settings) as second:
                for channel in (first, second):
                    method = channel.unary_unary("/fedhft.test.Echo/unary_unary")
                    await asyncio.to_thread(method, b"x", timeout=5)
            assert len(set(peers)) == (2 if own else 1)


async def test_tls_lets_in_clients_with_a_certificate_of_the_authority_and_nobody_else(tmp_path: Path) -> None:
    own, stranger = Certificates(tmp_path / "own"), Certificates(tmp_path / "stranger")
    client, alien = own.of("agent/ash"), stranger.of("agent/ash")
    async with served(tls=own.of("aggregator")) as server:
        strangers = [
            TlsSettings(alien.certificate, alien.key, client.authority),
            TlsSettings(authority=client.authority),
            TlsSettings(client.certificate, client.key, alien.authority),
            None,
        ]
        for settings in strangers:
            async with open_aio_channel(ChannelSettings(server.address, tls=settings)) as channel:
                with pytest.raises(grpc.RpcError) as caught:
                    await call(channel, "unary_unary", timeout=5)
                refusal = error_from_rpc(caught.value)
                assert refusal.code is ErrorCode.SERVER_UNAVAILABLE
                assert "TLS" in refusal.message
        async with open_aio_channel(ChannelSettings(server.address, tls=client)) as channel:
            with pytest.raises(grpc.RpcError) as caught:  # let in, and told that the method is for nobody
                await call(channel, "unary_unary", timeout=5)
            assert error_from_rpc(caught.value).code is ErrorCode.NOT_AUTHORISED
    async with served() as server, open_aio_channel(ChannelSettings(server.address, tls=client)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await call(channel, "unary_unary", timeout=5)
        assert "the other side may not use TLS" in error_from_rpc(caught.value).message


def test_tls_files_that_are_missing_or_half_given_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FedhftError, match="give both files or neither"):
        TlsSettings(certificate=tmp_path / "a.pem")
    with pytest.raises(FedhftError, match=r"nowhere\.pem.*cannot be read"):
        TlsSettings(authority=tmp_path / "nowhere.pem").channel_credentials()
    with pytest.raises(FedhftError, match="a server needs a certificate and a key"):
        TlsSettings(authority=tmp_path / "a.pem").server_credentials()
