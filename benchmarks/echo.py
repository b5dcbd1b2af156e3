"""The floor under `benchmarks.load`: a bare grpc.aio server that takes the same streams and sends the same bytes back.

No store, no checks, no interceptors: per client and round one upload is drained and one download of the same size is
sent, in the chunks that the aggregator's clients and the aggregator use, with the same channel settings.
`python -m benchmarks.echo SIZE` serves until its standard input closes; `measure` runs it and clients against it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from fedhft_agent.connection import LARGEST_CHUNK_BYTES
from fedhft_aggregator.published_blobs import PIECE_BYTES

from benchmarks.figures import cpu_seconds
from fedhft.process.allocator import bound_arenas
from fedhft.rpc.channel import ChannelSettings, open_aio_channel
from fedhft.rpc.server import server_options
from fedhft.v1 import federation_pb2, federation_pb2_grpc


class Echo(federation_pb2_grpc.FederationServicer):  # type: ignore[misc]
    """Drains pushes, answers pulls; knows no other call."""

    def __init__(self, size: int) -> None:
        self._data = bytes(size)

    async def PushUpdate(
        self, request_iterator: AsyncIterator[federation_pb2.PushUpdateRequest], context: Any
    ) -> federation_pb2.PushUpdateResponse:
        """Read to the end."""
        received = 0
        async for message in request_iterator:
            received += len(message.chunk.data)
        return federation_pb2.PushUpdateResponse(staged_bytes=received)

    async def PullBlob(
        self, request: federation_pb2.PullBlobRequest, context: Any
    ) -> AsyncIterator[federation_pb2.BlobChunk]:
        """Send everything."""
        for start in range(0, len(self._data), PIECE_BYTES):
            yield federation_pb2.BlobChunk(offset=start, data=self._data[start : start + PIECE_BYTES])


async def serve(size: int) -> None:
    """Until standard input closes."""
    server = grpc.aio.server(options=server_options())
    federation_pb2_grpc.add_FederationServicer_to_server(Echo(size), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


async def _client(address: str, size: int, rounds: int) -> None:
    data = bytes(size)

    async def messages() -> AsyncIterator[federation_pb2.PushUpdateRequest]:
        yield federation_pb2.PushUpdateRequest(header=federation_pb2.UpdateHeader(size=size))
        for start in range(0, size, LARGEST_CHUNK_BYTES):
            chunk = federation_pb2.BlobChunk(offset=start, data=data[start : start + LARGEST_CHUNK_BYTES])
            yield federation_pb2.PushUpdateRequest(chunk=chunk)

    async with open_aio_channel(ChannelSettings(address, own_connection=True)) as channel:
        stub = federation_pb2_grpc.FederationStub(channel)
        for _ in range(rounds):
            answer = await stub.PushUpdate(messages(), timeout=600)
            if answer.staged_bytes != size:
                raise RuntimeError(f"{answer.staged_bytes} of {size} bytes arrived")
            pulled = 0
            async for chunk in stub.PullBlob(federation_pb2.PullBlobRequest(), timeout=600):
                pulled += len(chunk.data)
            if pulled != size:
                raise RuntimeError(f"{pulled} of {size} bytes came back")


async def _clients(address: str, clients: int, size: int, rounds: int) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(_client(address, size, rounds))


def measure(clients: int, size: int, rounds: int) -> float:
    """CPU seconds of the bare server per client and round."""
    command = [sys.executable, "-m", "benchmarks.echo", str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        if server.stdout is None or server.stdin is None:
            raise RuntimeError("the echo server has no pipes")
        address = f"127.0.0.1:{int(server.stdout.readline())}"
        before = cpu_seconds(server.pid)
        asyncio.run(_clients(address, clients, size, rounds))
        time.sleep(0.1)
        used = cpu_seconds(server.pid) - before
        server.stdin.close()
        server.wait(30)
    return used / (clients * rounds)


if __name__ == "__main__":
    bound_arenas()
    asyncio.run(serve(int(sys.argv[1])))
