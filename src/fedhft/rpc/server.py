"""The asyncio gRPC server that every service runs: health, interceptors, keep-alive, graceful stop.

gRPC's own limits on message size apply, since tensors travel in chunks.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from fedhft.errors import ErrorCode, FedhftError
from fedhft.rpc.address import is_loopback, parse_address
from fedhft.rpc.interceptors.admission import AdmissionInterceptor
from fedhft.rpc.interceptors.around import AroundInterceptor, Chain
from fedhft.rpc.interceptors.callers import CallersInterceptor, Check
from fedhft.rpc.interceptors.deadlines import DeadlinesInterceptor
from fedhft.rpc.interceptors.errors import ErrorsInterceptor
from fedhft.rpc.interceptors.metrics import MetricsInterceptor
from fedhft.rpc.keepalive import KeepAlive
from fedhft.rpc.peer import DAMAGED, expiry_of, trust_domain_of
from fedhft.rpc.tls import Pems, TlsSettings
from fedhft.telemetry import metrics

logger = logging.getLogger(__name__)

_LOOKAHEAD_BYTES = 8 * 1024
_READ_BUFFER_BYTES = 8 * 1024
_PENDING_CALLS = 20_000
_PENDING_S = 120
HANDSHAKE_S = 20.0
"""gRPC's own two minutes would let strangers hold sockets."""


@dataclass(frozen=True)
class ServerSettings:
    """Where and how to serve."""

    listen: str
    """host:port; port 0 picks a free one."""
    tls: TlsSettings | None = None
    """None means plain text."""
    max_concurrent_rpcs: int | None = None
    """Calls served at once, long polls included; any more are refused with SERVER_UNAVAILABLE. None: no limit."""
    keepalive: KeepAlive = field(default_factory=KeepAlive)
    """Must be what the clients use."""
    longest_call_s: float = 600.0
    """No call lasts longer, whatever deadline its client set."""
    handshake_s: float = HANDSHAKE_S
    """How long a new connection may take to shake hands."""
    largest_message: int | None = None
    """Bytes of a message that is taken; None: gRPC's 4 MiB."""
    check_certificate: Check | None = None
    """Raises for a caller's certificate that is no longer to be trusted; asked at every call."""
    insecure: bool = False
    """Whether to serve callers that nobody has authenticated on an address that other machines can reach."""
    field_name: str = "listen"
    """What messages call the address."""

    @property
    def authenticates(self) -> bool:
        """Whether every caller has shown a certificate."""
        return self.tls is not None and self.tls.authority is not None


class RunningServer:
    """A server that accepts calls. Its health is NOT_SERVING until `set_ready(True)`."""

    def __init__(self, server: grpc.aio.Server, address: str, health: HealthServicer, names: Sequence[str]) -> None:
        self._server = server
        self._names = ("", *names)
        self.address = address
        """host:port actually bound."""
        self.health = health
        """The grpc.health.v1 servicer."""

    async def set_ready(self, ready: bool) -> None:
        """Tell grpc.health.v1 whether calls can succeed now."""
        serving = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self.health.set(name, serving)

    async def stop(self, grace_s: float) -> None:
        """Turn unhealthy, take no new calls, give running ones `grace_s` seconds, then cancel them."""
        await self.health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


def default_interceptors(settings: ServerSettings) -> list[AroundInterceptor]:
    """Metrics, errors, callers, deadlines and, where a bound is set, admission; the first is outermost.

    Raises FedhftError(INVALID_ARGUMENT) when it is unclear whose certificates to trust.
    """
    chain: list[AroundInterceptor] = [
        MetricsInterceptor(),
        ErrorsInterceptor(),
        CallersInterceptor(trust_domain_of(settings.tls), settings.check_certificate),
        DeadlinesInterceptor(settings.longest_call_s),
    ]
    if settings.max_concurrent_rpcs is not None:
        chain.append(AdmissionInterceptor(settings.max_concurrent_rpcs))
    return chain


def server_options(keepalive: KeepAlive | None = None, handshake_s: float = HANDSHAKE_S) -> Sequence[tuple[str, Any]]:
    """Channel arguments of every server."""
    return [
        *(keepalive or KeepAlive()).server_options(),
        ("grpc.server_handshake_timeout_ms", round(handshake_s * 1000)),
        # Otherwise two servers on one port would silently share its connections.
        ("grpc.so_reuseport", 0),
        # Calls wait here while the event loop is busy; by default gRPC cancels some beyond a thousand, and every one
        # after half a minute. Ten thousand agents may call at once, and each has one call open.
        ("grpc.server.max_pending_requests", _PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * _PENDING_CALLS),
        ("grpc.server_max_unrequested_time_in_server", _PENDING_S),
        # gRPC's bandwidth probe lets each stream run megabytes ahead of its reader: with 200 clients pushing 4 MiB,
        # every whole update would be in memory. Without it a stream is ahead by at most this much and the message
        # being read.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _LOOKAHEAD_BYTES),
        # A connection keeps its last read buffer for as long as it is open. gRPC makes it as large as what came lately,
        # unbounded by its own documented limit (grpc issue 42194), so that after an upload every idle client would
        # hold 64 KiB and more.
        ("grpc.experimental.tcp_max_read_buffer_size", _READ_BUFFER_BYTES),
    ]


async def start_server(
    settings: ServerSettings,
    register: Callable[[grpc.aio.Server], None],
    service_names: Sequence[str],
    interceptors: Sequence[AroundInterceptor] | None = None,
) -> RunningServer:
    """Bind, register and start. `service_names` are the full names that health answers for (`fedhft.v1.Federation`).

    `interceptors` run inside the default ones, so what they raise is translated and counted too.
    Raises FedhftError(INVALID_ARGUMENT) when the address cannot be bound.
    """
    host, port = parse_address(settings.listen, settings.field_name)
    _check_exposure(settings, host)
    server = grpc.aio.server(
        interceptors=[Chain([*default_interceptors(settings), *(interceptors or ())])],
        options=[
            *server_options(settings.keepalive, settings.handshake_s),
            *([("grpc.max_receive_message_length", settings.largest_message)] if settings.largest_message else []),
        ],
    )
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    register(server)
    address = f"{host}:{port}"
    try:
        if settings.tls is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, settings.tls.server_credentials(_show_expiry))
    except RuntimeError as error:
        raise _unbound(settings, str(error)) from error
    if bound == 0:
        raise _unbound(settings, "gRPC gives no reason")
    running = RunningServer(server, f"{host}:{bound}", health, service_names)
    await running.set_ready(False)
    await server.start()
    return running


def _check_exposure(settings: ServerSettings, host: str) -> None:
    """Refuse, or at least announce, a server that lets anybody on the network do anything."""
    if settings.authenticates or is_loopback(host):
        return
    if not settings.insecure:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, settings.field_name, settings.listen,
            "other machines can reach it, and without TLS and an authority for client certificates every caller may do "
            "everything",
            "give --tls-certificate, --tls-key and --tls-authority, listen on 127.0.0.1, or accept it with --insecure",
        )  # fmt: skip
    logger.warning(
        "callers are not authenticated: whoever reaches this address may call every method under every name",
        extra={"listen": settings.listen, "encrypted": settings.tls is not None},
    )


def _show_expiry(pems: Pems) -> None:
    with contextlib.suppress(*DAMAGED):  # the files were checked by another parser, which may know more
        metrics.CERTIFICATE_EXPIRY_SECONDS.set(expiry_of(pems.certificate or b""))


def _unbound(settings: ServerSettings, reason: str) -> FedhftError:
    return FedhftError.field(
        ErrorCode.INVALID_ARGUMENT, settings.field_name, settings.listen, f"cannot be bound ({reason})",
        "choose a free port of this machine, or port 0 for any",
    )  # fmt: skip
