"""A small service of raw bytes with one method of every arity, served by the real server over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from fedhft.rpc.server import RunningServer, ServerSettings, start_server

NAME = "fedhft.test.Echo"
ARITIES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")

Behaviour = Callable[[bytes, Any], Awaitable[None]]
"""Runs per request; whatever it raises, the call raises."""


async def echo(request: bytes, context: Any) -> None:
    """Nothing goes wrong."""


def register(behaviour: Behaviour) -> Callable[[grpc.aio.Server], None]:
    """Add the service: every method answers its requests one by one (or the last one), after `behaviour`."""

    async def unary_unary(request: bytes, context: Any) -> bytes:
        await behaviour(request, context)
        return request

    async def unary_stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request
        await behaviour(request, context)
        yield request

    async def stream_unary(requests: AsyncIterator[bytes], context: Any) -> bytes:
        last = b""
        async for last in requests:
            await behaviour(last, context)
        return last

    async def stream_stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            await behaviour(request, context)
            yield request

    async def written_stream(request: bytes, context: Any) -> None:
        await context.write(request)
        await behaviour(request, context)

    handlers = {
        "unary_unary": grpc.unary_unary_rpc_method_handler(unary_unary),
        "unary_stream": grpc.unary_stream_rpc_method_handler(unary_stream),
        "stream_unary": grpc.stream_unary_rpc_method_handler(stream_unary),
        "stream_stream": grpc.stream_stream_rpc_method_handler(stream_stream),
        "written_stream": grpc.unary_stream_rpc_method_handler(written_stream),
    }

    def add(server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))

    return add


@asynccontextmanager
async def served(behaviour: Behaviour = echo, **settings: Any) -> AsyncIterator[RunningServer]:
    """The service on a free port."""
    running = await start_server(ServerSettings(**{"listen": "127.0.0.1:0", **settings}), register(behaviour), [NAME])
    try:
        yield running
    finally:
        await running.stop(0.2)


async def call(channel: grpc.aio.Channel, arity: str, request: bytes = b"x", timeout: float | None = 10.0) -> bytes:
    """One asyncio call of any arity; returns the last answer."""
    method = f"/{NAME}/{arity}"

    async def requests() -> AsyncIterator[bytes]:
        yield request

    if arity == "unary_unary":
        return await channel.unary_unary(method)(request, timeout=timeout)
    if arity == "stream_unary":
        return await channel.stream_unary(method)(requests(), timeout=timeout)
    if arity == "stream_stream":
        stream = channel.stream_stream(method)(requests(), timeout=timeout)
    else:
        stream = channel.unary_stream(method)(request, timeout=timeout)
    try:
        answers = [answer async for answer in stream]
    finally:
        stream.cancel()  # a caller cancelled while its request is still being sent leaves the call open otherwise
    return answers[-1]


def blocking_call(channel: grpc.Channel, arity: str, request: bytes = b"x", timeout: float | None = 10.0) -> bytes:
    """The same through a blocking channel."""
    method = f"/{NAME}/{arity}"
    if arity == "unary_unary":
        return channel.unary_unary(method)(request, timeout=timeout)
    if arity == "stream_unary":
        return channel.stream_unary(method)(iter([request]), timeout=timeout)
    if arity == "stream_stream":
        return list(channel.stream_stream(method)(iter([request]), timeout=timeout))[-1]
    return list(channel.unary_stream(method)(request, timeout=timeout))[-1]
