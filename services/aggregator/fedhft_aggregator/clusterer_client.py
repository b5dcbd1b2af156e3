"""The clusterer over gRPC, as the coordinator calls it."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from fedhft.ids import JobId
from fedhft.rpc.channel import ChannelSettings, FreshAioChannel
from fedhft.rpc.outage import Outage
from fedhft.rpc.status import error_from_rpc
from fedhft.v1 import clustering_pb2, clustering_pb2_grpc

_DEADLINE_S = 30.0


class RemoteClusterer:
    """Calls the clusterer service; on failure the caller keeps the old memberships."""

    def __init__(self, settings: ChannelSettings) -> None:
        """Raises FedhftError for TLS files that are not sound."""
        self._outage = Outage(settings.target, settings.tls)
        self._channel = FreshAioChannel(settings, grace_s=_DEADLINE_S)

    async def update_memberships(self, job: JobId, expected_version: int, after_round: int) -> None:
        """See Clusterer. Raises FedhftError."""
        request = clustering_pb2.UpdateMembershipsRequest(job=job, expected_version=expected_version, round=after_round)
        try:
            stub = clustering_pb2_grpc.ClusteringStub(self._channel.current())
            await stub.UpdateMemberships(request, timeout=_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            refusal = error_from_rpc(error)
            raise await asyncio.to_thread(self._outage.explain, refusal) from error
        self._outage.answered()

    async def close(self) -> None:
        """Close the connection; calls in flight end."""
        await self._channel.close()
