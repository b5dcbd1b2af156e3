"""The clusterer process: the threads that fit, in addition to what every service does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import grpc.aio

from fedhft.coordination.deny_list import DenyList
from fedhft.coordination.memberships import Fit, Outcome
from fedhft.errors import FedhftError
from fedhft.process.background import meanwhile
from fedhft.process.running import Service, run_service
from fedhft.store.interface import Store
from fedhft.store.open import open_store
from fedhft.telemetry import metrics
from fedhft.telemetry.federations import EndedFederations
from fedhft.v1 import clustering_pb2_grpc
from fedhft_clusterer.clustering_service import Clustering
from fedhft_clusterer.settings import ClustererSettings

SERVICES = ("fedhft.v1.Clustering",)
FITS_AT_ONCE = 2
"""Jobs fitted at the same time; others wait."""
_FORGET_EVERY_S = 60.0


def run(settings: ClustererSettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises FedhftError for settings that cannot work."""
    asyncio.run(serve(settings))
    return 0


async def serve(settings: ClustererSettings) -> None:
    """Fit mixtures for the aggregator. Raises FedhftError for settings that cannot work."""
    if settings.tls is not None:
        settings.tls.read()  # files that are not sound are told at once, not after waiting for a store
    async with contextlib.AsyncExitStack() as stack:
        store = open_store(settings.redis, "redis", settings.redis_password_file)
        stack.push_async_callback(store.close)
        threads = ThreadPoolExecutor(FITS_AT_ONCE, thread_name_prefix="fit")
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)

        async def fitted(fit: Fit) -> Outcome:
            asked = time.perf_counter()

            def started() -> Outcome:
                metrics.QUEUE_WAIT_SECONDS.observe(time.perf_counter() - asked)
                return fit()

            return await asyncio.get_running_loop().run_in_executor(threads, started)

        def register(server: grpc.aio.Server) -> None:
            clustering_pb2_grpc.add_ClusteringServicer_to_server(Clustering(store, fitted), server)

        deny_list = DenyList(store)
        await stack.enter_async_context(deny_list.following())
        service = Service(SERVICES, register, store.ping, work=_forgetting(store), check_certificate=deny_list.check)
        await run_service(settings, service)


@contextlib.asynccontextmanager
async def _forgetting(store: Store) -> AsyncIterator[None]:
    """Drop the series of jobs that are over, a while after they ended."""

    async def forget() -> None:
        ended = EndedFederations(time.monotonic)
        while True:
            with contextlib.suppress(FedhftError):  # the store is away, which its own gauge and readiness tell
                ended.sweep(await store.open_jobs())
            await asyncio.sleep(_FORGET_EVERY_S)

    async with meanwhile(forget(), "forget"):
        yield
