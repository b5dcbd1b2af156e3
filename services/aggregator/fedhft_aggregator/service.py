"""The aggregator process: its options, and what it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from dataclasses import dataclass

import grpc.aio

from fedhft.coordination.job_cache import JobCache
from fedhft.errors import FedhftError
from fedhft.process.lifecycle import ServiceOptions, announce, service_parser, wait_for_signal
from fedhft.process.pages import serve_pages
from fedhft.process.readiness import ReadinessWatch
from fedhft.rpc.channel import ChannelSettings, open_aio_channel
from fedhft.rpc.server import ServerSettings, parse_address, start_server
from fedhft.rpc.sockets import SocketMeter
from fedhft.store.open import open_store
from fedhft.telemetry import logs, metrics
from fedhft.v1 import federation_pb2_grpc, jobs_pb2_grpc
from fedhft_aggregator.clusterer_client import RemoteClusterer
from fedhft_aggregator.failpoints import VARIABLE, failpoint
from fedhft_aggregator.federation_service import Federation
from fedhft_aggregator.jobs_service import Jobs
from fedhft_aggregator.loops import JobLoops

log = logging.getLogger("fedhft_aggregator")

SERVICES = ("fedhft.v1.Federation", "fedhft.v1.Jobs")


@dataclass(frozen=True)
class Settings:
    """Options of the aggregator."""

    service: ServiceOptions
    blobs: str
    """"redis", or "dir:<path>" on a volume that all replicas share."""
    clusterer: str
    """host:port of the clusterer; empty runs without one (memberships stay as they are)."""
    max_concurrent_rpcs: int | None


def parse(arguments: list[str]) -> Settings:
    """Settings from the command line and FEDHFT_* variables."""
    parser = service_parser(
        "fedhft_aggregator", "Serves agents and people, drives jobs.", "127.0.0.1:50051", metrics_port=9101
    )
    parser.option("blobs", "redis", 'where tensors are kept: "redis", or "dir:<path>" on a volume all replicas share')
    parser.option("clusterer", "", "address of the clusterer, host:port; empty runs without clustering")
    parser.option("max-concurrent-rpcs", 0, "calls served at once, long polls included; 0 means no bound", type=int)
    parsed = parser.parse_args(arguments)
    if parsed.clusterer:
        parse_address(parsed.clusterer, "clusterer")
    return Settings(ServiceOptions.of(parsed), parsed.blobs, parsed.clusterer, parsed.max_concurrent_rpcs or None)


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises FedhftError for settings that cannot work."""
    options = settings.service
    reached = failpoint(os.environ.get(VARIABLE, ""))
    async with contextlib.AsyncExitStack() as stack:
        store = open_store(options.redis, settings.blobs)
        stack.push_async_callback(store.close)
        channel: grpc.aio.Channel | None = None
        if settings.clusterer:
            channel = open_aio_channel(ChannelSettings(settings.clusterer, tls=options.tls))
            stack.push_async_callback(channel.close, None)
        views = JobCache(store)
        loops = JobLoops(store, views, RemoteClusterer(channel) if channel else None, reached)

        def register(server: grpc.aio.Server) -> None:
            federation_pb2_grpc.add_FederationServicer_to_server(Federation(store, views, reached), server)
            jobs_pb2_grpc.add_JobsServicer_to_server(Jobs(store, loops), server)

        server = await start_server(
            ServerSettings(options.listen, tls=options.tls, max_concurrent_rpcs=settings.max_concurrent_rpcs),
            register,
            SERVICES,
        )
        _, port = parse_address(server.address, "listen")
        metrics.SOCKET_BYTES.measure(SocketMeter(local_ports=[port]).sample)
        watch = ReadinessWatch(store.ping, server.set_ready)
        await watch.start()
        pages = serve_pages(options.metrics_port, watch.ready, options.metrics_host)
        discovery = asyncio.create_task(loops.discover(), name="discover")
        announce(grpc=server.address, metrics=pages.address)
        signal = await wait_for_signal()
        log.info("stopping", extra={"signal": signal.name})
        await watch.stop()
        discovery.cancel()
        await loops.stop()
        await server.stop(options.grace_s)
        pages.stop()


def main() -> int:
    """Entry point; returns the exit code."""
    try:
        settings = parse(sys.argv[1:])
        logs.configure(settings.service.log_format, settings.service.log_level)
        asyncio.run(serve(settings))
    except FedhftError as error:
        print(f"fedhft_aggregator: {error.message}", file=sys.stderr)
        return error.outcome.exit_code
    return 0
