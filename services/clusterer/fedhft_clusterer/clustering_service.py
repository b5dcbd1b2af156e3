"""The Clustering service of protos/fedhft/v1/clustering.proto."""

from __future__ import annotations

import asyncio
import logging

from fedhft.coordination.describe import memberships_message
from fedhft.coordination.memberships import Runner, figures_of, publish_memberships, sizes_of
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId, parse_job_id
from fedhft.records import MembershipRecord
from fedhft.rpc.caller import Context, authenticate
from fedhft.store.interface import Store
from fedhft.telemetry import federations, metrics
from fedhft.v1 import clustering_pb2 as pb
from fedhft.v1 import clustering_pb2_grpc

log = logging.getLogger(__name__)


class Clustering(clustering_pb2_grpc.ClusteringServicer):
    """From the signatures in the store to memberships in the store."""

    def __init__(self, store: Store, run: Runner) -> None:
        self._store = store
        self._run = run
        self._working: dict[tuple[JobId, int], asyncio.Task[MembershipRecord]] = {}

    async def UpdateMemberships(
        self, request: pb.UpdateMembershipsRequest, context: Context
    ) -> pb.UpdateMembershipsResponse:
        """Fit, publish, answer with the memberships now in force.

        Idempotent: a repeat joins the call still in progress, or finds its result. Work goes on when its caller goes
        away, so that a retry finds it done.
        """
        authenticate(context)
        job = parse_job_id(request.job)
        key = (job, request.expected_version)
        task = self._working.get(key)
        if task is None:
            task = asyncio.create_task(self._publish(job, request), name=f"clustering of {job}")
            self._working[key] = task
            task.add_done_callback(lambda done: self._done(key, done))
        record = await asyncio.shield(task)
        self._show(job, record)
        return pb.UpdateMembershipsResponse(version=record.version, clusters=record.clusters, round=record.round)

    async def _publish(self, job: JobId, request: pb.UpdateMembershipsRequest) -> MembershipRecord:
        return await publish_memberships(self._store, job, request.expected_version, request.round, self._run)

    def _done(self, key: tuple[JobId, int], task: asyncio.Task[MembershipRecord]) -> None:
        self._working.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("no new memberships", extra={"job": key[0], "reason": str(error)})

    async def GetMemberships(self, request: pb.GetMembershipsRequest, context: Context) -> pb.Memberships:
        """A version, or the latest; version 0 without rows when nothing was published yet."""
        authenticate(context)
        job = parse_job_id(request.job)
        record = await self._record(job, request.version)
        return pb.Memberships(job=job) if record is None else memberships_message(job, record)

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        """Sizes of the latest clusters and how their fit went."""
        authenticate(context)
        job = parse_job_id(request.job)
        record = await self._record(job, 0)
        if record is None:
            return pb.DescribeResponse(job=job)
        figures = figures_of(record)
        largest = [max(row) for row in record.rows.values()]
        return pb.DescribeResponse(
            job=job,
            version=record.version,
            clusters=[
                pb.ClusterDescription(
                    cluster=cluster, mass=sum(row[cluster] for row in record.rows.values()), clients=clients
                )
                for cluster, clients in enumerate(sizes_of(record))
            ],
            mean_largest_membership=sum(largest) / len(largest) if largest else 0.0,
            log_likelihood=figures.log_likelihood,
            dimensions=figures.dimensions,
        )

    async def _record(self, job: JobId, version: int) -> MembershipRecord | None:
        await self._store.job(job)  # refuses an unknown job
        record = await self._store.memberships(job, version)
        if record is None and version:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "version", version, "the job has no such membership version",
                "ask for version 0, the latest",
            )  # fmt: skip
        return record

    def _show(self, job: JobId, record: MembershipRecord) -> None:
        federations.drop(job, [metrics.CLUSTER_CLIENTS])
        metrics.MEMBERSHIPS_VERSION.labels(federation=job).set(record.version)
        if record.confidence is not None:
            metrics.CLUSTER_CONFIDENCE.labels(federation=job).set(record.confidence)
        for cluster, size in enumerate(sizes_of(record)):
            metrics.CLUSTER_CLIENTS.labels(federation=job, cluster=str(cluster)).set(size)
