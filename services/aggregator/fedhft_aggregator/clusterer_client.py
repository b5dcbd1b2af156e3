"""The clusterer over gRPC, as the coordinator calls it."""

from __future__ import annotations

import grpc
import grpc.aio

from fedhft.ids import JobId
from fedhft.rpc.status import error_from_rpc
from fedhft.v1 import clustering_pb2, clustering_pb2_grpc

_DEADLINE_S = 30.0


class RemoteClusterer:
    """Calls the clusterer service; on failure the caller keeps the old memberships."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = clustering_pb2_grpc.ClusteringStub(channel)

    async def update_memberships(self, job: JobId, expected_version: int, after_round: int) -> None:
        """See Clusterer. Raises FedhftError."""
        request = clustering_pb2.UpdateMembershipsRequest(job=job, expected_version=expected_version, round=after_round)
        try:
            await self._stub.UpdateMemberships(request, timeout=_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
