"""What servers and clients promise about every call, over real sockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedhft.errors import ErrorCode, FedhftError
from fedhft.rpc.channel import ChannelSettings, open_aio_channel, open_channel
from fedhft.rpc.server import ServerSettings, start_server
from fedhft.rpc.status import error_from_rpc
from fedhft.telemetry.registry import REGISTRY
from tests.integration.rpc_service import ARITIES, NAME, blocking_call, call, echo, register, served

EVERY_METHOD = (*ARITIES, "written_stream")


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def settled(name: str, expected: float, **labels: str) -> None:
    """A client has its answer before the server has finished counting."""
    async with asyncio.timeout(5):
        while value(name, **labels) != expected:  # noqa: ASYNC110 - the counter has no event
            await asyncio.sleep(0.01)


async def refused(channel: grpc.aio.Channel, arity: str, request: bytes = b"x", **kw: Any) -> FedhftError:
    with pytest.raises(grpc.RpcError) as caught:
        await call(channel, arity, request, **kw)
    return error_from_rpc(caught.value)


@pytest.fixture
async def misbehaving() -> AsyncIterator[grpc.aio.Channel]:
    async def behaviour(request: bytes, context: Any) -> None:
        if request == b"refuse":
            raise FedhftError(ErrorCode.WRONG_OFFSET, "offset = 3: 7 bytes are staged; go on at 7")
        if request == b"defect":
            raise ZeroDivisionError("a secret of the server")
        if request == b"long":
            raise FedhftError(ErrorCode.INVALID_JOB, "größer\n" * 20_000)
        if request == b"slow":
            await asyncio.sleep(30)

    async with (
        served(behaviour, longest_call_s=0.3) as server,
        open_aio_channel(ChannelSettings(server.address)) as channel,
    ):
        yield channel


@pytest.mark.parametrize("arity", EVERY_METHOD)
async def test_a_refusal_reaches_an_asyncio_client_as_it_was_raised_and_is_counted(
    misbehaving: grpc.aio.Channel, arity: str
) -> None:
    before = value("fedhft_refusals_total", code="wrong_offset")
    assert await call(misbehaving, arity) == b"x"
    error = await refused(misbehaving, arity, b"refuse")
    assert (error.code, error.message) == (ErrorCode.WRONG_OFFSET, "offset = 3: 7 bytes are staged; go on at 7")
    assert value("fedhft_refusals_total", code="wrong_offset") == before + 1


@pytest.mark.parametrize("arity", EVERY_METHOD)
async def test_a_refusal_reaches_a_blocking_client_as_it_was_raised(arity: str) -> None:
    async def refuse(request: bytes, context: Any) -> None:
        raise FedhftError(ErrorCode.STORE_FULL, "the store is full; free memory")

    async with served(refuse) as server:
        with open_channel(ChannelSettings(server.address)) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                await asyncio.to_thread(blocking_call, channel, arity)
            error = error_from_rpc(caught.value)
            assert (error.code, error.message) == (ErrorCode.STORE_FULL, "the store is full; free memory")
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("arity", EVERY_METHOD)
async def test_an_unforeseen_error_is_logged_and_only_its_number_is_sent(
    misbehaving: grpc.aio.Channel, arity: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        error = await refused(misbehaving, arity, b"defect")
    assert error.code is ErrorCode.INTERNAL
    assert "secret" not in error.message
    (record,) = [r for r in caplog.records if hasattr(r, "incident")]
    assert record.incident in error.message
    assert record.exc_info is not None
    assert "a secret of the server" in str(record.exc_info[1])


async def test_a_long_refusal_arrives_cut_instead_of_breaking_the_call(misbehaving: grpc.aio.Channel) -> None:
    error = await refused(misbehaving, "unary_unary", b"long")
    assert error.code is ErrorCode.INVALID_JOB
    assert error.message.startswith("größer\ngrößer\n")
    assert error.message.endswith("...")


@pytest.mark.parametrize("timeout", [None, 3600.0])
@pytest.mark.parametrize("arity", EVERY_METHOD)
async def test_a_call_is_bounded_by_the_server_whatever_deadline_its_client_set(
    misbehaving: grpc.aio.Channel, arity: str, timeout: float | None
) -> None:
    bare = misbehaving._inner  # type: ignore[attr-defined]  # our channels set a deadline themselves
    with pytest.raises(grpc.RpcError) as caught:
        await asyncio.wait_for(call(bare, arity, b"slow", timeout=timeout), timeout=10)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
    assert error_from_rpc(caught.value).code is ErrorCode.SERVER_UNAVAILABLE


@pytest.mark.parametrize("arity", ARITIES)
@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_no_call_of_our_channels_outlasts_their_bound(arity: str, timeout: float | None) -> None:
    async def slow(request: bytes, context: Any) -> None:
        await asyncio.sleep(30)

    async with served(slow) as server:
        settings = ChannelSettings(server.address, longest_call_s=0.3)
        async with open_aio_channel(settings) as channel:
            assert (await refused(channel, arity, timeout=timeout)).code is ErrorCode.SERVER_UNAVAILABLE
        with open_channel(settings) as blocking:
            with pytest.raises(grpc.RpcError) as caught:
                await asyncio.wait_for(asyncio.to_thread(blocking_call, blocking, arity, b"x", timeout), 10)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(("request_", "status"), [(b"x", "OK"), (b"refuse", "OUT_OF_RANGE"), (b"defect", "INTERNAL")])
@pytest.mark.parametrize("arity", EVERY_METHOD)
async def test_calls_are_timed_under_their_status_and_none_stays_in_flight(
    misbehaving: grpc.aio.Channel, arity: str, request_: bytes, status: str
) -> None:
    labels = {"method": f"/{NAME}/{arity}", "status": status}
    before = value("fedhft_rpc_seconds_count", **labels)
    if status == "OK":
        await call(misbehaving, arity, request_)
    else:
        await refused(misbehaving, arity, request_)
    await settled("fedhft_rpc_seconds_count", before + 1, **labels)
    assert value("fedhft_rpcs_in_flight", method=f"/{NAME}/{arity}") == 0


@pytest.mark.parametrize("arity", EVERY_METHOD)
async def test_a_client_that_goes_away_in_mid_call_leaves_nothing_in_flight(arity: str) -> None:
    entered = asyncio.Event()

    async def wait(request: bytes, context: Any) -> None:
        entered.set()
        await asyncio.sleep(60)

    async with served(wait) as server, open_aio_channel(ChannelSettings(server.address)) as channel:
        before = value("fedhft_rpc_seconds_count", method=f"/{NAME}/{arity}", status="CANCELLED")
        task = asyncio.create_task(call(channel, arity))
        await asyncio.wait_for(entered.wait(), 5)
        assert value("fedhft_rpcs_in_flight", method=f"/{NAME}/{arity}") == 1
        task.cancel()
        await settled("fedhft_rpcs_in_flight", 0, method=f"/{NAME}/{arity}")
        await settled("fedhft_rpc_seconds_count", before + 1, method=f"/{NAME}/{arity}", status="CANCELLED")


async def test_a_method_nobody_serves_is_a_matter_of_versions() -> None:
    async with served() as server, open_aio_channel(ChannelSettings(server.address)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary(f"/{NAME}/Newer")(b"x", timeout=5)
        assert error_from_rpc(caught.value).code is ErrorCode.PROTOCOL_VERSION


async def test_a_server_that_is_not_there_is_unavailable_and_worth_a_retry() -> None:
    async with served() as server:
        address = server.address
    async with open_aio_channel(ChannelSettings(address)) as channel:
        error = await refused(channel, "unary_unary", timeout=5)
        assert error.code is ErrorCode.SERVER_UNAVAILABLE
        assert error.outcome.retryable


async def test_a_message_beyond_grpcs_own_limit_is_refused_because_nobody_raised_it() -> None:
    async with served() as server, open_aio_channel(ChannelSettings(server.address)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await call(channel, "unary_unary", b"x" * (5 << 20))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
        assert not error_from_rpc(caught.value).outcome.retryable


async def test_a_full_server_refuses_at_once_and_still_answers_for_its_health() -> None:
    release = asyncio.Event()
    entered = asyncio.Event()

    async def wait(request: bytes, context: Any) -> None:
        entered.set()
        await release.wait()

    async with (
        served(wait, max_concurrent_rpcs=1) as server,
        open_aio_channel(ChannelSettings(server.address)) as channel,
    ):
        first = asyncio.create_task(call(channel, "unary_unary"))
        await asyncio.wait_for(entered.wait(), 5)
        error = await refused(channel, "stream_stream")
        assert error.code is ErrorCode.SERVER_UNAVAILABLE
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=5)).status
        release.set()
        assert await first == b"x"
        assert await call(channel, "stream_stream") == b"x"


async def test_health_follows_readiness_and_turns_down_before_the_server_stops() -> None:
    server = await start_server(ServerSettings("127.0.0.1:0"), register(echo), [NAME])
    serving = health_pb2.HealthCheckResponse.SERVING
    not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
    async with open_aio_channel(ChannelSettings(server.address)) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        async def status(name: str) -> int:
            return (await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)).status  # type: ignore[no-any-return]

        assert [await status(""), await status(NAME)] == [not_serving, not_serving]
        await server.set_ready(True)
        assert [await status(""), await status(NAME)] == [serving, serving]
        await server.set_ready(False)
        assert [await status(""), await status(NAME)] == [not_serving, not_serving]
        await server.set_ready(True)
        watch = aiter(health.Watch(health_pb2.HealthCheckRequest(service=NAME), timeout=10))
        assert (await anext(watch)).status == serving
        stopping = asyncio.create_task(server.stop(2.0))
        assert (await anext(watch)).status == not_serving
        await stopping


async def test_calls_that_run_when_the_server_stops_are_given_the_grace_period() -> None:
    entered = asyncio.Event()

    async def work(request: bytes, context: Any) -> None:
        entered.set()
        await asyncio.sleep(0.3)

    server = await start_server(ServerSettings("127.0.0.1:0"), register(work), [NAME])
    async with open_aio_channel(ChannelSettings(server.address)) as channel:
        running = asyncio.create_task(call(channel, "unary_unary"))
        await asyncio.wait_for(entered.wait(), 5)
        await server.stop(5.0)
        assert await running == b"x"


async def test_a_taken_port_is_refused_by_name_instead_of_shared() -> None:
    async with served() as server:
        with pytest.raises(FedhftError, match=r"listen = .*cannot be bound") as caught:
            await start_server(ServerSettings(server.address), register(echo), [NAME])
        assert caught.value.code is ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize("listen", ["127.0.0.1", "127.0.0.1:port", ":1", "127.0.0.1:70000", "::1:5000", ""])
async def test_an_address_that_is_none_is_refused_with_an_example(listen: str) -> None:
    with pytest.raises(FedhftError, match=r"write host:port, for example") as caught:
        await start_server(ServerSettings(listen), register(echo), [NAME])
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


async def test_a_server_that_other_machines_can_reach_starts_without_callers_certificates_only_when_told_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    everywhere = "0.0.0.0:0"
    for listen in (everywhere, "[::]:0"):
        with pytest.raises(FedhftError, match=r"listen = .*--insecure") as caught:
            await start_server(ServerSettings(listen), register(echo), [NAME])
        assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    async with served(listen=everywhere, insecure=True):
        assert "callers are not authenticated" in caplog.text
    caplog.clear()
    async with served(listen="localhost:0"):
        assert caplog.text == ""


async def test_a_handler_that_is_not_async_is_refused_instead_of_blocking_the_loop() -> None:
    def blocking(request: bytes, context: Any) -> bytes:
        return request

    def add(server: grpc.aio.Server) -> None:
        handlers = {"unary_unary": grpc.unary_unary_rpc_method_handler(blocking)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))

    server = await start_server(ServerSettings("127.0.0.1:0"), add, [NAME])
    async with open_aio_channel(ChannelSettings(server.address)) as channel:
        with pytest.raises(grpc.RpcError):
            await call(channel, "unary_unary", timeout=5)
    await server.stop(0)
