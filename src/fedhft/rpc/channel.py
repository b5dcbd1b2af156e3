"""Client channels, blocking (agents, command line) and asyncio (services), with the same settings."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc
import grpc.aio

from fedhft.rpc.bounded import BoundedAioChannel, BoundedChannel
from fedhft.rpc.keepalive import KeepAlive, Options
from fedhft.rpc.tls import TlsSettings


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


def open_channel(settings: ChannelSettings) -> grpc.Channel:
    """A blocking channel. Connects lazily; close it."""
    options = _options(settings)
    if settings.tls is None:
        inner = grpc.insecure_channel(settings.target, options=options)
    else:
        inner = grpc.secure_channel(settings.target, settings.tls.channel_credentials(), options=options)
    return BoundedChannel(inner, settings.longest_call_s)


def open_aio_channel(settings: ChannelSettings) -> grpc.aio.Channel:
    """An asyncio channel, to be opened and closed inside the event loop that uses it."""
    options = _options(settings)
    if settings.tls is None:
        inner = grpc.aio.insecure_channel(settings.target, options=options)
    else:
        inner = grpc.aio.secure_channel(settings.target, settings.tls.channel_credentials(), options=options)
    return BoundedAioChannel(inner, settings.longest_call_s)


def _options(settings: ChannelSettings) -> Options:
    options = settings.keepalive.client_options()
    # The default reconnects after up to two minutes, long after a restarted server is back.
    options += [("grpc.initial_reconnect_backoff_ms", 500), ("grpc.max_reconnect_backoff_ms", 10_000)]
    if settings.own_connection:
        options.append(("grpc.use_local_subchannel_pool", 1))
    return options
