"""A process from outside: the line it announces itself with, the signal that ends it, the order in which it stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from typing import ClassVar

import grpc.aio
import pytest
from fedhft_clusterer.settings import ClustererSettings
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.presence import announce
from fedhft.process.program import run_program
from fedhft.process.running import Service, run_service
from fedhft.process.signals import wait_for_signal


def test_the_listening_line_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    announce(grpc="127.0.0.1:5", metrics=None, other="127.0.0.1:6")
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"event": "listening", "grpc": "127.0.0.1:5", "other": "127.0.0.1:6"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_wait_and_the_next_one_is_not_swallowed(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    waiting = asyncio.create_task(wait_for_signal())
    await asyncio.sleep(0)
    os.kill(os.getpid(), number)
    assert await asyncio.wait_for(waiting, 5) is number
    after = signal.getsignal(number)
    signal.signal(number, before)
    assert after in (signal.SIG_DFL, signal.default_int_handler)


class Plain(ClustererSettings):
    program: ClassVar[str] = "plain"


def test_a_refusal_is_one_message_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(settings: Plain) -> int:
        raise FedhftError(ErrorCode.STORE_FULL, f"no room beside {settings.listen}")

    assert run_program(Plain, refuse, ["--listen", "h:1"]) == 39
    assert capsys.readouterr().err == "plain: no room beside h:1\n"
    assert run_program(Plain, lambda settings: 7, []) == 7


async def page(address: str, path: str) -> int:
    def fetch() -> int:
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    return await asyncio.to_thread(fetch)


async def test_a_service_stops_unready_then_without_its_work_then_without_calls_and_its_pages_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[object] = []
    addresses: dict[str, str] = {}
    begun, hold = asyncio.Event(), asyncio.Event()

    async def check() -> None:
        """All is well."""

    @contextlib.asynccontextmanager
    async def work() -> AsyncIterator[None]:
        yield
        async with grpc.aio.insecure_channel(addresses["grpc"]) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            seen.append(("work ends", await page(addresses["metrics"], "/readyz"), answer.status))

    class Slow(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            async def answer(request: bytes, context: object) -> bytes:
                begun.set()
                await hold.wait()
                return b"done"

            return grpc.unary_unary_rpc_method_handler(answer) if details.method == "/t/Slow" else None

    def register(server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers((Slow(),))

    settings = ClustererSettings(listen="127.0.0.1:0", metrics_port=0, grace=5.0)
    running = asyncio.create_task(run_service(settings, Service((), register, check, work())))
    async with asyncio.timeout(20):
        while not (line := capsys.readouterr().out):
            assert not running.done()
            await asyncio.sleep(0.01)
        addresses |= json.loads(line)
        assert await page(addresses["metrics"], "/readyz") == 200
        async with grpc.aio.insecure_channel(addresses["grpc"]) as channel:
            call = channel.unary_unary("/t/Slow")(b"", timeout=10)
            await begun.wait()
            os.kill(os.getpid(), signal.SIGTERM)
            while not seen:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert await page(addresses["metrics"], "/readyz") == 503
            assert not running.done()
            hold.set()
            assert await call == b"done"
        await running
    assert seen == [("work ends", 503, health_pb2.HealthCheckResponse.NOT_SERVING)]
    with pytest.raises(OSError, match="refused"):
        await page(addresses["metrics"], "/readyz")
