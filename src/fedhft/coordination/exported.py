"""What is needed to build the adapters of a version: references to its snapshots, and the memberships of its time."""

from __future__ import annotations

from fedhft.coordination.describe import memberships_message
from fedhft.coordination.history import best_so_far
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.records import MembershipRecord, VersionRecord
from fedhft.rounds.retention import KEPT_SNAPSHOTS
from fedhft.store.interface import Store
from fedhft.v1 import adapter_pb2, jobs_pb2


async def exported(store: Store, job: JobId, number: int) -> jobs_pb2.ExportJobResponse:
    """A version that is kept whole, the last for 0.

    Raises UNKNOWN_JOB, JOB_NOT_RUNNING before the first one, INVALID_ARGUMENT for one that is not kept.
    """
    record, schema, versions = await store.job(job), await store.schema(job), await kept_whole(store, job)
    if schema is None or not versions:
        raise FedhftError(ErrorCode.JOB_NOT_RUNNING, f"job {job} has published no adapter; wait for its first round")
    version = versions[0] if number == 0 else next((one for one in versions if one.version == number), None)
    if version is None:
        kept = " and ".join(str(one.version) for one in reversed(versions))
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "version", number, f"is not kept whole by the server, which keeps {kept}",
            "choose one of these; earlier ones cannot be had back",
        )  # fmt: skip
    memberships = await _memberships(store, job, version, latest=version is versions[0])
    blobs = [
        adapter_pb2.BlobRef(
            digest=bytes.fromhex(blob.digest),
            size=blob.size,
            kind=adapter_pb2.BLOB_KIND_SNAPSHOT,
            scope=scope,
            version=version.version,
        )
        for scope, blob in sorted(version.snapshots.items())
    ]
    return jobs_pb2.ExportJobResponse(
        spec_json=record.spec_json,
        schema_json=schema,
        version=version.version,
        blobs=blobs,
        memberships=memberships_message(job, memberships) if memberships else None,
    )


async def kept_whole(store: Store, job: JobId) -> list[VersionRecord]:
    """The versions whose snapshots are kept: the latest first, the best last where it is an older one."""
    latest = await store.version(job)
    if latest is None:
        return []
    oldest = max(1, latest.version - KEPT_SNAPSHOTS + 1)
    best = await best_so_far(store, job)
    numbers = [*range(latest.version - 1, oldest - 1, -1)]
    if best is not None and 0 < best.version < oldest:
        numbers.append(best.version)
    found = [latest, *[await store.version(job, number) for number in numbers]]
    return [version for version in found if version is not None and version.snapshots]


async def _memberships(store: Store, job: JobId, version: VersionRecord, latest: bool) -> MembershipRecord | None:
    """The memberships that hold for a version: those now for the latest, else the last from before the next round.

    Where those are no longer kept (a best version that is long past), the oldest that are, if of as many clusters.
    """
    record = await store.memberships(job)
    while record is not None and not latest and record.round > version.round:
        if record.version == 1:
            return None
        earlier = await store.memberships(job, record.version - 1)
        if earlier is None:
            return record if record.clusters == version.clusters else None
        record = earlier
    return record
