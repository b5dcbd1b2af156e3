"""Links of given rates: every connection of an agent goes through a port of ours that lets bytes pass no faster.

A token bucket for each direction: tokens come at the rate, at most those of `_BURST_S`; a piece that was read is passed
on when there are tokens for it. What cannot be passed on yet is not read, so TCP's own flow control reaches the sender,
as behind a slow line.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from fedhft.errors import ErrorCode, FedhftError

_BURST_S = 0.05
_LARGEST_PIECE = 16384
_START_S = 10.0


@dataclass
class Rate:
    """Bytes per second of one direction, which may change at any time."""

    bytes_per_second: float
    _free_at: float = field(default=0.0, init=False)

    async def take(self, count: int) -> None:
        """Wait until so many bytes may have passed."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now - _BURST_S) + count / self.bytes_per_second
        await asyncio.sleep(max(0.0, self._free_at - now))


class ShapedLink:
    """One agent's line to a server: `address` is to be called in its place."""

    def __init__(self, target: str, up: float, down: float) -> None:
        host, _, port = target.rpartition(":")
        self._host, self._port = host, int(port)
        self.up, self.down = Rate(up), Rate(down)
        self.address = ""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0, limit=_LARGEST_PIECE)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"

    async def close(self) -> None:
        """Stop listening, and cut what is connected."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            own_reader, own_writer = await asyncio.open_connection(self._host, self._port, limit=_LARGEST_PIECE)
        except OSError:  # the server is away, which the agent then sees of its own connection
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(_pass_on(reader, own_writer, self.up))
                directions.create_task(_pass_on(own_reader, writer, self.down))
        finally:
            own_writer.close()
            writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: Rate) -> None:
    with contextlib.suppress(ConnectionError):  # either end is gone; closing tells the other
        while piece := await reader.read(_LARGEST_PIECE):
            await rate.take(len(piece))
            writer.write(piece)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


class Links:
    """The links of a federation, carried by a thread of their own from `start` to `close`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._links: list[ShapedLink] = []

    def open(self, target: str, up: float, down: float) -> ShapedLink:
        """A further link to `target`, host:port. Raises FedhftError(SERVER_UNAVAILABLE) when no port can be had."""
        if not self._thread.is_alive():
            self._thread.start()
        link = ShapedLink(target, up, down)
        try:
            self._run(link.open())
        except OSError as error:
            raise FedhftError(ErrorCode.SERVER_UNAVAILABLE, f"no link to {target}: {error.strerror}") from error
        self._links.append(link)
        return link

    def close(self) -> None:
        """Cut every link. May be called again."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            for link in self._links:
                self._run(link.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_S)
