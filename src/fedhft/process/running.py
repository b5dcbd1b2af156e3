"""A service while it runs: its pages, its servers, its background work, and the order in which they stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import grpc.aio

from fedhft.process.collector import spare_the_long_lived
from fedhft.process.presence import announce, pages
from fedhft.process.readiness import Check as ReadyCheck
from fedhft.process.readiness import ReadinessWatch
from fedhft.process.settings import ServiceSettings
from fedhft.process.signals import wait_for_signal
from fedhft.rpc.address import parse_address
from fedhft.rpc.interceptors.callers import Check
from fedhft.rpc.server import RunningServer, ServerSettings, start_server
from fedhft.rpc.sockets import SocketMeter
from fedhft.telemetry import metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Admin:
    """A listener of its own for people, so that agents cannot even reach their service."""

    listen: str
    """host:port."""
    names: Sequence[str]
    """Full names that its grpc.health.v1 answers for."""
    register: Callable[[grpc.aio.Server], None]
    largest_message: int | None = None
    """Bytes of a message that it takes; None: gRPC's 4 MiB."""


@dataclass(frozen=True)
class Service:
    """What distinguishes one gRPC service from another; the rest is the same for all."""

    names: Sequence[str]
    """Full names that grpc.health.v1 answers for (`fedhft.v1.Federation`)."""
    register: Callable[[grpc.aio.Server], None]
    check: ReadyCheck
    """Whether calls can succeed now (usually: the store answers)."""
    work: contextlib.AbstractAsyncContextManager[object] = field(default_factory=contextlib.nullcontext)
    """Background work: entered before the service is ready, left before running calls get their grace."""
    max_concurrent_rpcs: int | None = None
    """Calls served at once; None: no limit."""
    check_certificate: Check | None = None
    """Raises for a caller's certificate that is no longer to be trusted; asked at every call."""
    admin: Admin | None = None
    """What is served on a second address, away from the callers of the first."""
    page: contextlib.AbstractContextManager[str | None] = field(default_factory=contextlib.nullcontext)
    """A page for people with a browser; yields its host:port, None where there is none."""


async def run_service(settings: ServiceSettings, service: Service) -> None:
    """Serve until SIGTERM or SIGINT. Raises FedhftError for settings that cannot work.

    To stop, it first turns unready, then ends its background work, then lets running calls end within the grace; its
    pages answer until the end.
    """
    watch = ReadinessWatch(service.check)
    async with contextlib.AsyncExitStack() as stack:
        metrics_address = stack.enter_context(pages(settings, watch.ready))
        page_address = stack.enter_context(service.page)
        common = ServerSettings(
            settings.listen,
            tls=settings.tls,
            max_concurrent_rpcs=service.max_concurrent_rpcs,
            check_certificate=service.check_certificate,
            insecure=settings.insecure,
            field_name="--listen",
        )
        server = await start_server(common, service.register, service.names)
        servers = [server]
        stack.push_async_callback(_stop, servers, settings.grace)
        admin_address: str | None = None
        if service.admin is not None:
            admin = await start_server(
                replace(
                    common,
                    listen=service.admin.listen,
                    field_name="--admin-listen",
                    largest_message=service.admin.largest_message,
                ),
                service.admin.register,
                service.admin.names,
            )
            servers.append(admin)
            admin_address = admin.address
        ports = [parse_address(running.address, "listen")[1] for running in servers]
        metrics.SOCKET_BYTES.measure(SocketMeter(local_ports=ports).sample)
        await stack.enter_async_context(service.work)
        stack.push_async_callback(watch.stop)

        async def tell(ready: bool) -> None:
            for running in servers:
                await running.set_ready(ready)

        await watch.start(tell)
        spare_the_long_lived()
        announce(grpc=server.address, admin=admin_address, metrics=metrics_address, page=page_address)
        signal = await wait_for_signal()
        log.info("stopping", extra={"signal": signal.name})


async def _stop(servers: Sequence[RunningServer], grace_s: float) -> None:
    """Stop all of them at once, so that together they take no longer than the grace."""
    await asyncio.gather(*(server.stop(grace_s) for server in servers))
