"""Client channels, blocking (agents, command line) and asyncio (services), with the same settings."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import grpc.aio

from fedhft.rpc.address import is_loopback
from fedhft.rpc.bounded import BoundedAioChannel, BoundedChannel
from fedhft.rpc.keepalive import KeepAlive, Options
from fedhft.rpc.tls import Pems, TlsSettings, WatchedFiles, channel_credentials


@dataclass(frozen=True)
class ChannelSettings:
    """How to reach a server."""

    target: str
    """host:port, or any gRPC target such as dns:///name:port."""
    tls: TlsSettings | None = None
    """None means plain text."""
    own_connection: bool = False
    """Whether this channel has a TCP connection of its own, not shared with other channels of the process to the same
    target. For several agents in one process whose bytes are counted separately."""
    keepalive: KeepAlive = field(default_factory=KeepAlive)
    """Must be what the server was started with."""
    longest_call_s: float = 600.0
    """No call lasts longer, whatever timeout its caller set, or if it set none."""


def open_channel(settings: ChannelSettings, pems: Pems | None = None) -> grpc.Channel:
    """A blocking channel. Connects lazily; close it. `pems`: use these instead of reading the TLS files."""
    options = _options(settings)
    if settings.tls is None:
        inner = grpc.insecure_channel(settings.target, options=options)
    else:
        credentials = channel_credentials(pems or settings.tls.read())
        inner = grpc.secure_channel(settings.target, credentials, options=options)
    return BoundedChannel(inner, settings.longest_call_s)


def open_aio_channel(settings: ChannelSettings, pems: Pems | None = None) -> grpc.aio.Channel:
    """An asyncio channel, to be opened and closed inside the event loop that uses it."""
    options = _options(settings)
    if settings.tls is None:
        inner = grpc.aio.insecure_channel(settings.target, options=options)
    else:
        credentials = channel_credentials(pems or settings.tls.read())
        inner = grpc.aio.secure_channel(settings.target, credentials, options=options)
    return BoundedAioChannel(inner, settings.longest_call_s)


class FreshChannel:
    """A blocking channel that is opened anew when its TLS files have been replaced.

    gRPC reads a client's files once, so a certificate that is renewed while an agent runs would otherwise be noticed
    only when the old one has expired. Files that are not sound change nothing (see WatchedFiles).
    """

    def __init__(self, settings: ChannelSettings, before_closing: Callable[[], object] = lambda: None) -> None:
        """`before_closing` is called before a channel goes. Raises FedhftError(INVALID_ARGUMENT) for unsound files."""
        self._settings = settings
        self._before_closing = before_closing
        self._lock = threading.Lock()
        self._files = None if settings.tls is None else WatchedFiles(settings.tls)
        self._channel = open_channel(settings, self._files.pems if self._files is not None else None)

    def current(self) -> grpc.Channel:
        """The channel to use for the next call. Replacing it ends calls that are still going on over the old one."""
        with self._lock:
            pems = self._files.replaced() if self._files is not None else None
            if pems is not None:
                self._before_closing()
                self._channel.close()
                self._channel = open_channel(self._settings, pems)
            return self._channel

    def close(self) -> None:
        """Close the channel and end its calls."""
        with self._lock:
            self._before_closing()
            self._channel.close()


class FreshAioChannel:
    """The same for asyncio; calls over the old channel get `grace_s` seconds to end."""

    def __init__(self, settings: ChannelSettings, grace_s: float) -> None:
        self._settings = settings
        self._grace_s = grace_s
        self._files = None if settings.tls is None else WatchedFiles(settings.tls)
        self._channel = open_aio_channel(settings, self._files.pems if self._files is not None else None)
        self._closing: set[asyncio.Task[None]] = set()

    def current(self) -> grpc.aio.Channel:
        """The channel to use for the next call."""
        pems = self._files.replaced() if self._files is not None else None
        if pems is not None:
            task = asyncio.create_task(self._channel.close(self._grace_s), name="old-channel")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._channel = open_aio_channel(self._settings, pems)
        return self._channel

    async def close(self) -> None:
        """Close it at once, with whatever is left of earlier ones."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._channel.close(None)


def _options(settings: ChannelSettings) -> Options:
    options = settings.keepalive.client_options()
    # The default reconnects after up to two minutes, long after a restarted server is back.
    options += [("grpc.initial_reconnect_backoff_ms", 500), ("grpc.max_reconnect_backoff_ms", 10_000)]
    if is_loopback(settings.target.rpartition(":")[0]):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy would look for the server on its own machine
    if settings.own_connection:
        options.append(("grpc.use_local_subchannel_pool", 1))
    return options
