"""What building a job's tasks needs, read once per change and shared by all callers in a process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fedhft.adapter import AdapterSchema
from fedhft.ids import JobId
from fedhft.job import JobSpec, load_canonical
from fedhft.records import JobRecord, Outcome, RoundRecord, Topic, VersionRecord
from fedhft.rounds.retention import oldest_kept
from fedhft.rounds.shares import cluster_masses
from fedhft.store.interface import Store
from fedhft.stored_blob import BandBlobs


@dataclass(frozen=True)
class CachedJob:
    """A reading of a job: it may be one change old, but no record in it mixes two changes."""

    change: int
    record: JobRecord
    spec: JobSpec
    schema: AdapterSchema | None
    round: RoundRecord | None
    versions: dict[int, VersionRecord]
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    """client -> what a fold did with its last update that was not folded as it was sent."""

    @cached_property
    def cluster_masses(self) -> tuple[float, ...]:
        """Mass of the round's participants in every cluster; () without a round."""
        return cluster_masses(self.round) if self.round else ()

    @cached_property
    def shards(self) -> int:
        """In how many shares the participants of the round score the shared validation rows."""
        return sum(part.shard is not None for part in self.round.participants.values()) if self.round else 0

    @cached_property
    def mass_memberships(self) -> tuple[float, ...]:
        """sum_i q_i p_i / sum_i q_i over the round's participants: the mass-weighted mixture; () without a round."""
        total = float(sum(part.weight for part in self.round.participants.values())) if self.round else 0.0
        return tuple(mass / (total or 1.0) for mass in self.cluster_masses)

    @cached_property
    def served_digests(self) -> frozenset[str]:
        """Blobs that clients may pull: published deltas and snapshots, nothing else."""
        deltas = {blob.digest for version in self.versions.values() for blob in version.deltas.values()}
        in_bands = {blob.digest for bands in self._bands for blob in bands.delta_blobs()}
        return self.snapshot_digests | deltas | in_bands

    @cached_property
    def snapshot_digests(self) -> frozenset[str]:
        """Those of them that are whole scopes, or whole bands of scopes."""
        whole = {blob.digest for version in self.versions.values() for blob in version.snapshots.values()}
        return frozenset(whole | {blob.digest for bands in self._bands for blob in bands.snapshot_blobs()})

    @property
    def _bands(self) -> list[BandBlobs]:
        return [version.bands for version in self.versions.values() if version.bands is not None]


class JobCache:
    """Cache of CachedJob by job, renewed when the TASKS counter of the job moves."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._jobs: dict[JobId, CachedJob] = {}
        self._locks: dict[JobId, asyncio.Lock] = {}

    async def get(self, job: JobId, change: int | None = None) -> CachedJob:
        """The job as it was at a change, or later. Raises UNKNOWN_JOB."""
        change = await self._store.changes(job, Topic.TASKS) if change is None else change
        cached = self._jobs.get(job)
        if cached is not None and cached.change == change:
            return cached
        async with self._locks.setdefault(job, asyncio.Lock()):
            cached = self._jobs.get(job)
            if cached is None or cached.change != change:
                cached = await self._read(job, change)
                if cached.record.status.over:
                    self.forget(job)  # agents still ask about a job that has ended, once each
                else:
                    self._jobs[job] = cached
            return cached

    def forget(self, job: JobId) -> None:
        """Drop a job that has ended."""
        self._jobs.pop(job, None)
        self._locks.pop(job, None)

    async def _read(self, job: JobId, change: int) -> CachedJob:
        record = await self._store.job(job)
        before = self._jobs.get(job)
        if before is not None and before.record.created_ms != record.created_ms:
            before = None  # another job, under the name of one that was deleted
        schema = await self._store.schema(job)
        current = await self._store.round(job)
        versions: dict[int, VersionRecord] = {}
        if current is not None:
            last = current.base_version
            for number in range(min(last, oldest_kept(last)), last + 1):
                # A version's record never changes.
                version = before.versions.get(number) if before else None
                version = version or await self._store.version(job, number)
                if version is not None:
                    versions[number] = version
        return CachedJob(
            change=change,
            record=record,
            spec=before.spec
            if before and before.record.spec_json == record.spec_json
            else load_canonical(record.spec_json),
            schema=before.schema if before and before.schema else AdapterSchema.from_json(schema) if schema else None,
            round=current,
            versions=versions,
            outcomes=await self._store.outcomes(job),
        )
