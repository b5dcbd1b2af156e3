"""An aggregator and a clusterer that ask for certificates, in this process over real sockets and a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from fedhft_aggregator.federation_service import Federation
from fedhft_aggregator.jobs_service import Jobs
from fedhft_aggregator.loops import JobLoops
from fedhft_clusterer.clustering_service import Clustering

from fedhft.coordination.deny_list import DenyList
from fedhft.coordination.job_cache import JobCache
from fedhft.job import JobSpec
from fedhft.rpc.channel import ChannelSettings, open_aio_channel
from fedhft.rpc.server import ServerSettings, start_server
from fedhft.rpc.tls import TlsSettings
from fedhft.store.interface import Store
from fedhft.store.open import open_store
from fedhft.v1 import clustering_pb2_grpc, federation_pb2_grpc, jobs_pb2_grpc
from tests.aggregator import Aggregator
from tests.certificates import Certificates
from tests.light import LightClient, light_schema


@dataclass
class Guarded:
    """A server of every service, and the certificates of whoever calls it."""

    certificates: Certificates
    aggregator: Aggregator
    """Its `jobs` and `channel` are those of operator/olga."""
    stack: AsyncExitStack

    @property
    def store(self) -> Store:
        return self.aggregator.store

    async def channel(self, tls: TlsSettings | None) -> grpc.aio.Channel:
        """A connection of its own, closed with the server."""
        settings = ChannelSettings(self.aggregator.address, tls=tls, own_connection=True)
        channel = open_aio_channel(settings)
        self.stack.push_async_callback(channel.close, None)
        return channel

    async def client(self, name: str, spec: JobSpec, tls: TlsSettings | None = None) -> LightClient:
        """A client with the certificate of its name, or with another."""
        own = self.certificates.of(f"agent/{name}") if tls is None else tls
        return LightClient(await self.channel(own), name, spec, light_schema())


@asynccontextmanager
async def guarded(redis_url: str, folder: Path, *, following: bool = True) -> AsyncIterator[Guarded]:
    """Serve Federation, Jobs and Clustering at one address with mutual TLS.

    Unless `following`, no news of the deny list arrives from the store, as when its subscription is lost.
    """
    certificates = Certificates(folder)
    async with AsyncExitStack() as stack:
        store = open_store(redis_url, "redis")
        stack.push_async_callback(store.close)
        cache = JobCache(store)
        loops = JobLoops(store, cache, None, lambda point: None)
        stack.push_async_callback(loops.stop)

        async def no_fit(fit: Any) -> Any:
            return fit()

        deny_list = DenyList(store)
        if following:
            await stack.enter_async_context(deny_list.following())
        else:
            await deny_list.refresh()

        def register(server: grpc.aio.Server) -> None:
            federation_pb2_grpc.add_FederationServicer_to_server(Federation(store, cache), server)
            jobs_pb2_grpc.add_JobsServicer_to_server(Jobs(store, loops, deny_list.refresh), server)
            clustering_pb2_grpc.add_ClusteringServicer_to_server(Clustering(store, no_fit), server)

        settings = ServerSettings("127.0.0.1:0", tls=certificates.of("aggregator"), check_certificate=deny_list.check)
        server = await start_server(settings, register, [])
        stack.push_async_callback(server.stop, 0)
        channel = open_aio_channel(
            ChannelSettings(server.address, tls=certificates.of("operator/olga"), own_connection=True)
        )
        stack.push_async_callback(channel.close, None)
        operated = Aggregator(store, server.address, channel, jobs_pb2_grpc.JobsStub(channel))
        yield Guarded(certificates, operated, stack)
