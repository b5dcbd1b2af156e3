"""Channels on which every call has a deadline, whether or not its caller set one.

A wrapper rather than an interceptor, because asyncio interceptors change how streams behave; rather than gRPC's service
config, because its method timeouts use a cycle counter and were two seconds off on a virtual machine.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

Observer = Callable[[grpc.ChannelConnectivity], None]
"""Is told of a blocking channel's connection state."""

WATCHES = frozenset({"/fedhft.v1.Jobs/Watch", "/grpc.health.v1.Health/Watch"})
"""Streams meant to stay open."""
WATCH_SECONDS = 86400.0
"""Even these are reopened once a day."""


class _BoundedCall:
    """A multi-callable whose timeout is never more than `longest_s`."""

    def __init__(self, inner: Any, longest_s: float) -> None:
        self._inner = inner
        self._longest_s = longest_s

    def _options(self, timeout: float | None, rest: dict[str, Any]) -> dict[str, Any]:
        return {**rest, "timeout": self._longest_s if timeout is None else min(timeout, self._longest_s)}

    # `request` is empty where an asyncio caller writes its requests one by one.
    def __call__(self, *request: Any, timeout: float | None = None, **rest: Any) -> Any:
        return self._inner(*request, **self._options(timeout, rest))

    def with_call(self, *request: Any, timeout: float | None = None, **rest: Any) -> Any:
        return self._inner.with_call(*request, **self._options(timeout, rest))

    def future(self, *request: Any, timeout: float | None = None, **rest: Any) -> Any:
        return self._inner.future(*request, **self._options(timeout, rest))


class _Bounded:
    """What the blocking and the asyncio channel have in common."""

    def __init__(self, inner: Any, longest_call_s: float) -> None:
        self._inner = inner
        self._longest_call_s = longest_call_s

    def _call(self, kind: str, method: str, args: tuple[Any, ...], rest: dict[str, Any]) -> Any:
        longest_s = WATCH_SECONDS if method in WATCHES else self._longest_call_s
        return _BoundedCall(getattr(self._inner, kind)(method, *args, **rest), longest_s)

    def unary_unary(self, method: str, *args: Any, **rest: Any) -> Any:
        """A callable for one method."""
        return self._call("unary_unary", method, args, rest)

    def unary_stream(self, method: str, *args: Any, **rest: Any) -> Any:
        """A callable for one method."""
        return self._call("unary_stream", method, args, rest)

    def stream_unary(self, method: str, *args: Any, **rest: Any) -> Any:
        """A callable for one method."""
        return self._call("stream_unary", method, args, rest)

    def stream_stream(self, method: str, *args: Any, **rest: Any) -> Any:
        """A callable for one method."""
        return self._call("stream_stream", method, args, rest)


class BoundedChannel(_Bounded, grpc.Channel):
    """A blocking channel."""

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False
    ) -> None:
        """Be told of the connection's state."""
        self._inner.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Observer) -> None:
        """Stop being told."""
        self._inner.unsubscribe(callback)

    def close(self) -> None:
        """Close the channel and end its calls."""
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self.close()
        return None


class BoundedAioChannel(_Bounded, grpc.aio.Channel):
    """An asyncio channel."""

    async def close(self, grace: float | None = None) -> None:
        """Close the channel after giving its calls `grace` seconds."""
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The connection's state."""
        state: grpc.ChannelConnectivity = self._inner.get_state(try_to_connect)
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state has changed."""
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until connected."""
        await self._inner.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        await self.close()
        return None
