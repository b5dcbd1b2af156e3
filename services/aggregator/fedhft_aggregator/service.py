"""The aggregator process: what it starts and stops in addition to what every service does."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import grpc.aio

from fedhft.coordination.decoded import DecodedUpdates
from fedhft.coordination.deny_list import DenyList
from fedhft.coordination.job_cache import JobCache
from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.running import Admin, Service, run_service
from fedhft.rounds.starting import MOST_START_BYTES
from fedhft.rpc.channel import ChannelSettings
from fedhft.store.open import open_store
from fedhft.v1 import federation_pb2_grpc, jobs_pb2_grpc
from fedhft_aggregator.clusterer_client import RemoteClusterer
from fedhft_aggregator.clusterer_watch import ClustererWatch
from fedhft_aggregator.failpoints import VARIABLE, failpoint
from fedhft_aggregator.federation_service import Federation
from fedhft_aggregator.jobs_service import Jobs
from fedhft_aggregator.loops import JobLoops
from fedhft_aggregator.page.access import PageSettings
from fedhft_aggregator.page.server import page
from fedhft_aggregator.settings import AggregatorSettings


def run(settings: AggregatorSettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises FedhftError for settings that cannot work."""
    asyncio.run(serve(settings))
    return 0


async def serve(settings: AggregatorSettings) -> None:
    """Serve agents and people, and drive every unfinished job. Raises FedhftError for settings that cannot work."""
    reached = failpoint(os.environ.get(VARIABLE, ""))
    if settings.tls is not None:
        settings.tls.read()  # files that are not sound are told at once, not after waiting for a store
    async with contextlib.AsyncExitStack() as stack:
        store = open_store(settings.redis, settings.blobs, settings.redis_password_file)
        stack.push_async_callback(store.close)
        clusterer: RemoteClusterer | None = None
        watch: ClustererWatch | None = None
        if settings.clusterer:
            clusterer = RemoteClusterer(ChannelSettings(settings.clusterer, tls=settings.tls))
            stack.push_async_callback(clusterer.close)
            watch = ClustererWatch(settings.clusterer, settings.tls)
            await stack.enter_async_context(watch.watching())
        jobs = JobCache(store)
        decoded = DecodedUpdates()
        lease_ms = round(1000 * settings.takeover)
        loops = JobLoops(store, jobs, clusterer, reached, decoded, settings.kept_rounds, lease_ms)

        deny_list = DenyList(store)
        await stack.enter_async_context(deny_list.following())

        async def check() -> str:
            await store.ping()
            return watch.trouble if watch is not None else ""

        def register(server: grpc.aio.Server) -> None:
            federation_pb2_grpc.add_FederationServicer_to_server(Federation(store, jobs, reached, decoded), server)

        def register_admin(server: grpc.aio.Server) -> None:
            jobs_pb2_grpc.add_JobsServicer_to_server(Jobs(store, loops, deny_list.refresh), server)

        service = Service(
            names=("fedhft.v1.Federation",),
            register=register,
            check=check,
            work=_driving(loops),
            max_concurrent_rpcs=settings.max_concurrent_rpcs or None,
            check_certificate=deny_list.check,
            admin=Admin(settings.admin_listen, ("fedhft.v1.Jobs",), register_admin, MOST_START_BYTES),
            page=page(_page_settings(settings, deny_list), lambda: open_store(settings.redis, "redis")),
        )
        await run_service(settings, service)


def _page_settings(settings: AggregatorSettings, deny_list: DenyList) -> PageSettings | None:
    """Where the page is served; None where it is not wanted. Raises FedhftError(INVALID_ARGUMENT)."""
    if not settings.page:
        return None
    if settings.redis.startswith("memory:"):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--page", settings.page, f"it cannot read the store {settings.redis}",
            "leave it out, or keep the store in Redis",
        )  # fmt: skip
    return PageSettings(settings.page, settings.tls, deny_list.check)


@contextlib.asynccontextmanager
async def _driving(loops: JobLoops) -> AsyncIterator[None]:
    """Look for jobs and drive them; on exit give them up, so that another replica takes over at once."""
    discovery = asyncio.create_task(loops.discover(), name="discover")
    try:
        yield
    finally:
        discovery.cancel()
        await loops.stop()
