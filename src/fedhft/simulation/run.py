"""A whole federation in one process, without sockets: the same decisions, folds, plans and client work as with them.

What differs from a deployment: the store is in memory, clients train one after another on one shared copy of the base
model, and figures of sockets and processes (bytes carried, peak memory) do not exist and stay zero.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedhft.adapter import AdapterSchema
from fedhft.aggregation.direction import NOTHING, Measured
from fedhft.coordination.clusterer import Clusterer
from fedhft.coordination.coordinator import Coordinator
from fedhft.coordination.describe import describe
from fedhft.coordination.history import RoundHistory
from fedhft.coordination.job_cache import CachedJob, JobCache
from fedhft.coordination.state_blobs import load_state, save_start
from fedhft.coordination.tasks import next_task
from fedhft.datasets.client_data import ClientData
from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.adapter_values import FIELD, AdapterValues, read_adapter, start_of_job
from fedhft.export.published import PublishedAdapters
from fedhft.ids import ClientId, JobId
from fedhft.job import JobSpec
from fedhft.job_sections import RoundsSpec
from fedhft.methods import Allocation
from fedhft.paths import expanded
from fedhft.planning.allocation import Allocated
from fedhft.planning.estimates import Durations
from fedhft.process.device_name import CPU
from fedhft.records import JobStatus, MembershipRecord, Phase, RoundRecord, VersionRecord
from fedhft.rounds.acceptance import check_blob, check_evaluation, check_header, evaluation_record, update_record
from fedhft.rounds.fetching import Held
from fedhft.rounds.joining import Application, capacity_of, check_application, check_same_schema, client_record
from fedhft.rounds.requests import held_of
from fedhft.rounds.starting import checked_start
from fedhft.simulation.clusterer import LocalClusterer
from fedhft.store.in_memory import InMemoryStore
from fedhft.store.interface import Store
from fedhft.training.base import LoadedBase, load_base
from fedhft.training.device.choice import usable_device
from fedhft.training.device.failure import device_failures
from fedhft.training.network import Network
from fedhft.training.prefix.cache import KEPT_AS
from fedhft.training.prefix.folder import PrefixFolder
from fedhft.training.worker import ClientWorker, Draft
from fedhft.v1 import capacity_pb2, federation_pb2, jobs_pb2

log = logging.getLogger(__name__)

NO_HURRY_S = 30 * 86400.0


@dataclass(frozen=True)
class Machine:
    """On what a simulation runs."""

    device: str = CPU
    """As `parse_device` takes it."""
    cache: Path | None = None
    """Folder in which outputs of layers that are not trained are kept, for all clients; None: nowhere."""
    cache_size: int = 2 << 30
    """Bytes that the cache may take."""


ON_THE_CPU = Machine()
OneRun = Callable[..., "Simulation"]
"""Makes a simulation of (spec, clients, base, observe, start)."""


@dataclass(frozen=True)
class Simulated:
    """How a simulated job ended."""

    spec: JobSpec
    job: jobs_pb2.Job
    """The job as shown to people, with its whole history."""
    memberships: MembershipRecord | None
    version: VersionRecord | None
    """The last published version; its blobs have the same digests as a deployment's."""
    allocated: Allocated | None
    """The plans in force at the end, where capacity was planned by."""
    adapters: PublishedAdapters | None
    """Its adapters; None where nothing was published."""


@dataclass
class _Traffic:
    up: int = 0
    down: int = 0


@dataclass
class Simulation:
    """A job whose clients are all in this process. `observe` is called with the job after every round."""

    spec: JobSpec
    clients: Mapping[str, ClientData]
    base: LoadedBase
    observe: Callable[[jobs_pb2.Job], None] = lambda job: None
    start: AdapterValues | None = None
    """The adapter that a job with adapter.from begins with."""
    worker_of: Callable[..., ClientWorker] = ClientWorker
    """Makes a client's worker; benchmarks let one of them misbehave."""
    clusterer_of: Callable[[Store], Clusterer] = LocalClusterer
    """Makes the clusterer; benchmarks put clients into clusters themselves."""
    changes: Mapping[int, Mapping[str, ClientData]] = field(default_factory=dict)
    """After so many rounds, clients that come back with other data."""
    _workers: dict[str, ClientWorker] = field(default_factory=dict, init=False)
    _traffic: dict[str, _Traffic] = field(default_factory=dict, init=False)
    _tokens: dict[str, str] = field(default_factory=dict, init=False)

    async def run(self) -> Simulated:
        """Run to the end. Raises FedhftError(JOB_FAILED) when the job fails."""
        spec = self.spec.model_copy(update={"rounds": self.rules()})
        store = self.store()
        job = JobId(spec.name)
        if self.start is None:
            await store.create_job(job, spec.canonical())
        else:
            schema = Network.on(self.base, self.spec).schema
            snapshots, left_out = start_of_job(spec, schema, self.start, str(self.base.path))
            if left_out:
                log.warning("%s: %s", self.start.source, left_out)
            text = schema.to_json()
            version = await save_start(store.blobs, job, spec, text, checked_start(spec, text, snapshots))
            await store.create_job(job, spec.canonical(), schema_json=text, start=version)
        await self._join(store, job, spec, self.clients)
        cache = JobCache(store)
        published: list[RoundHistory] = []
        coordinator = Coordinator(
            store, job, self.clusterer_of(store), "simulation", lease_ms=int(NO_HURRY_S * 1000),
            observe=published.append, kept_rounds=spec.rounds.total,
        )  # fmt: skip
        while (wait_s := await coordinator.step()) is not None:
            if published:
                self.observe(await _told(store, job))
                await self._join(store, job, spec, self.changes.get(published[-1].summary.round, {}))
                published.clear()
            if wait_s:
                await self.pass_time(store, job, await cache.get(job), wait_s)
        told = await _told(store, job)
        if told.status == JobStatus.FAILED:
            raise FedhftError(ErrorCode.JOB_FAILED, f"job {job} failed: {told.reason}")
        version, memberships = await store.version(job), await store.memberships(job)
        adapters = await _adapters(store, job, spec, version, memberships)
        return Simulated(spec, told, memberships, version, await store.allocated(job), adapters)

    # -- what a simulation with a virtual clock does otherwise

    def rules(self) -> RoundsSpec:
        """Rules of rounds. No client is late here and no other coordinator can take over, so nothing times out."""
        return self.spec.rounds.model_copy(
            update={"deadline": NO_HURRY_S, "client_timeout": NO_HURRY_S, "min_clients": len(self.clients)}
        )

    def store(self) -> InMemoryStore:
        """An empty store."""
        return InMemoryStore()

    def trial_of(self, name: str, worker: ClientWorker) -> capacity_pb2.Durations:
        """What a client measures before it joins."""
        return worker.trial()

    def keeps_frozen_layers(self, name: str, worker: ClientWorker) -> bool:
        """Whether a client runs frozen layers once per row."""
        return worker.keeps_frozen_layers

    def deepest(self, name: str) -> int:
        """The most layers that a client's device has memory to train; 0 means not stated."""
        return 0

    async def pass_time(self, store: InMemoryStore, job: JobId, cached: CachedJob, wait_s: float) -> None:
        """Do what clients do until the coordinator looks again: every client whose part of the open round is missing
        does it, one after another.
        """
        current = cached.round
        if current is None or current.phase is not Phase.COLLECTING:
            return
        for name in sorted(current.participants):
            if await store.delivered(job, current.number, ClientId(name)):
                continue
            task = await self.task_of(store, job, cached, name)
            if isinstance(task, federation_pb2.TrainTask):
                await self.deliver(store, job, cached, name, await self.train(name, task))
            elif task is not None:
                await self.evaluate(store, job, current, name, task)

    # -- a client's part of a round

    async def _join(self, store: InMemoryStore, job: JobId, spec: JobSpec, clients: Mapping[str, ClientData]) -> None:
        for name, data in sorted(clients.items()):
            worker = self.worker_of(spec, name, self.base, data, None)
            signature = worker.signature()
            agent = await store.enroll(ClientId(name), 0, "simulation")
            self._workers[name] = worker
            self._traffic.setdefault(name, _Traffic())
            self._tokens[name] = agent.lease_token
            application = Application(
                client=name,
                memory_bytes=agent.memory_bytes,
                tier="",
                schema=worker.schema,
                samples=worker.samples,
                data_digest=worker.data_digest,
                signature=signature.whole,
                halves=signature.halves,
                has_shared_validation=worker.has_shared_validation,
                trial=self._trial(spec, name, worker),
                keeps_frozen_layers=self.keeps_frozen_layers(name, worker),
                deepest=self.deepest(name),
            )
            check_application(spec, application)
            stored = AdapterSchema.from_json(await store.fix_schema(job, worker.schema.to_json()))
            check_same_schema(stored, worker.schema)
            known = await store.client(job, ClientId(name))
            await store.join(job, client_record(spec, application, known, await store.now_ms()))
            if spec.method.allocation is Allocation.CAPACITY:
                before = (await store.capacities(job, [name])).get(name)
                same_data = known is None or known.data_digest == application.data_digest
                await store.note_capacity(job, ClientId(name), capacity_of(application, before, same_data=same_data))

    def _trial(self, spec: JobSpec, name: str, worker: ClientWorker) -> Durations | None:
        if spec.method.allocation is not Allocation.CAPACITY:
            return None
        return Durations.of(self.trial_of(name, worker))

    async def task_of(
        self, store: InMemoryStore, job: JobId, cached: CachedJob, name: str
    ) -> federation_pb2.TrainTask | federation_pb2.EvaluateTask | None:
        """A client's task, with what it starts from fetched; None when there is nothing for it."""
        worker = self._workers[name]
        response = next_task(cached, name, _held(worker))
        if response is None:
            return None
        task = response.train if response.WhichOneof("task") == "train" else response.evaluate
        for ref in task.view.blobs:
            data = await store.blobs.get(job, ref.digest.hex())
            self._traffic[name].down += len(data)
            worker.apply(ref, data)
        return task

    async def train(self, name: str, task: federation_pb2.TrainTask) -> Draft:
        """Train a client's task."""
        return await asyncio.to_thread(self._workers[name].train, task, threading.Event().is_set)

    async def deliver(
        self,
        store: InMemoryStore,
        job: JobId,
        cached: CachedJob,
        name: str,
        draft: Draft,
        seconds: float | None = None,
    ) -> None:
        """Have an update accepted as the aggregator would. seconds: since its round opened, where time passes."""
        self._traffic[name].up += draft.size
        self._count(name, draft.measurements)
        header = federation_pb2.UpdateHeader(
            round=draft.round,
            base_version=draft.base_version,
            digest=bytes.fromhex(draft.digest),
            size=draft.size,
            scores=draft.scores,
            measurements=draft.measurements,
            signature=draft.signature,
        )
        awaited = check_header(cached.record, cached.spec, cached.schema, cached.round, name, header)
        measured = NOTHING
        if draft.blob:
            measured = Measured.of(check_blob(awaited, draft.blob))
            await store.blobs.put(job, draft.blob)
        record = update_record(name, header, awaited.part, measured, seconds)
        await store.accept(job, record, self._tokens[name])
        self._workers[name].commit(draft)

    async def evaluate(
        self, store: InMemoryStore, job: JobId, current: RoundRecord, name: str, task: federation_pb2.EvaluateTask
    ) -> None:
        """A client's part in the final evaluation."""
        scores, measurements = await asyncio.to_thread(self._workers[name].evaluate, task)
        self._count(name, measurements)
        report = federation_pb2.ReportEvaluationRequest(
            round=task.round, version=task.view.version, scores=scores, measurements=measurements
        )
        check_evaluation(self.spec, current, report)
        record = evaluation_record(name, report, current.participants[name])
        await store.accept(job, record, self._tokens[name])

    def _count(self, name: str, measurements: federation_pb2.Measurements) -> None:
        measurements.payload_bytes_sent = self._traffic[name].up
        measurements.payload_bytes_received = self._traffic[name].down
        measurements.peak_rss_bytes = 0


def _held(worker: ClientWorker) -> Held:
    """What a worker holds, as its agent would tell."""
    held = [federation_pb2.HeldScope(scope=scope, version=version) for scope, version in worker.held()]
    return held_of(federation_pb2.NextTaskRequest(held=held, held_bands=worker.held_bands(), takes_bands=True))


async def _adapters(
    store: InMemoryStore,
    job: JobId,
    spec: JobSpec,
    version: VersionRecord | None,
    memberships: MembershipRecord | None,
) -> PublishedAdapters | None:
    schema = await store.schema(job)
    if version is None or not version.snapshots or schema is None or not spec.method.combine.makes_one_model:
        return None
    read = AdapterSchema.from_json(schema)
    state = (await load_state(store.blobs, job, spec, read, version)).state
    return PublishedAdapters(spec, read, state, {} if memberships is None else memberships.rows)


async def _told(store: InMemoryStore, job: JobId) -> jobs_pb2.Job:
    return await describe(store, await store.job(job), most=None)


def _start(spec: JobSpec) -> AdapterValues | None:
    """The adapter that a job begins with. Raises FedhftError(INVALID_ARGUMENT)."""
    origin = spec.adapter.origin
    if not origin:
        return None
    folder = expanded(origin)
    if not folder.is_dir():
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, FIELD, origin, "is not a folder, and a simulation has no server to ask",
            "export the adapter and give its folder",
        )  # fmt: skip
    return read_adapter(folder)


def simulate(
    spec: JobSpec,
    clients: Mapping[str, ClientData],
    *,
    model: str | None = None,
    machine: Machine = ON_THE_CPU,
    observe: Callable[[jobs_pb2.Job], None] = lambda job: None,
    one_run: OneRun | None = None,
) -> Simulated:
    """Run a job over clients in this process. `model` overrides where the base model is loaded from.

    one_run: makes the simulation; None: one in which no time passes.

    Raises FedhftError: INVALID_MODEL, JOB_FAILED, DEVICE_FAILED, or what a client's work raises.
    """
    kept = None if machine.cache is None else PrefixFolder.open(machine.cache, machine.cache_size)
    try:
        device = usable_device(machine.device)
        with device_failures(device):
            base = load_base(spec, model, device=device)
            if kept is not None:
                Network.on(base, spec).cache_prefix(kept, KEPT_AS["float32"])
            return asyncio.run((one_run or Simulation)(spec, clients, base, observe, _start(spec)).run())
    finally:
        if kept is not None:
            kept.close()
