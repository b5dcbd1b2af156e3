"""How a process is asked to stop: by SIGTERM or SIGINT.

A service waits for either in its event loop. An agent works in its main thread, and its stop must take effect at once,
whatever that thread is doing. Python runs signal handlers between byte codes of the main thread, which may be inside a
tensor operation or a blocking call, and a handler must not take locks that the interrupted code may hold. So the
handlers do nothing: the interpreter writes the signal's number to a socket, and a thread that reads it does the rest.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from fedhft.rpc.retry import CallStoppedError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def wait_for_signal() -> signal.Signals:
    """Wait for SIGTERM or SIGINT and return it. A second one ends the process in the default way."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[signal.Signals] = loop.create_future()

    def note(number: signal.Signals) -> None:
        if not received.done():
            received.set_result(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, note, number)
    try:
        return await received
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


class StopSignal:
    """Context manager: while inside, SIGTERM and SIGINT request a stop. Must be entered in the main thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._previous: dict[int, object] = {}

    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self._event.is_set()

    def request(self) -> None:
        """Request a stop, as a signal would."""
        self._event.set()
        for callback in tuple(self._callbacks):
            callback()

    def on_request(self, callback: Callable[[], None]) -> None:
        """Call `callback` (in another thread) when a stop is requested; at once if it already was."""
        self._callbacks.append(callback)
        if self._event.is_set():
            callback()

    def sleep(self, seconds: float) -> None:
        """Wait. Raises CallStoppedError as soon as a stop is requested."""
        if self._event.wait(max(0.0, seconds)):
            raise CallStoppedError("stopped while waiting")

    def __enter__(self) -> StopSignal:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, _nothing)
        self._thread = threading.Thread(target=self._watch, name="stop-signal", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._previous_fd)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def _watch(self) -> None:
        while numbers := self._reader.recv(64):
            if any(number in _SIGNALS for number in numbers):
                self.request()


def _nothing(number: int, frame: FrameType | None) -> None:
    """Do nothing: the wakeup socket carries the signal."""
