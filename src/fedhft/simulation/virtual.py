"""A simulation whose time is that of its devices: clients deliver in the order in which they would finish.

What is trained is trained for real, on one device after another; how long it takes is worked out from the device's
profile (`devices`): fetching, passes through the layers, what no plan changes, and sending the update. Deadlines and
quorum hold, and a client that comes too late has trained for nothing. It is trained only when its time has come, so
what would be thrown away costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from fedhft.coordination.job_cache import CachedJob
from fedhft.ids import JobId
from fedhft.job_sections import RoundsSpec
from fedhft.plan import AdapterPlan
from fedhft.records import Phase, RoundRecord
from fedhft.simulation.devices import LocalWork, Profile
from fedhft.simulation.run import NO_HURRY_S, Simulation
from fedhft.simulation.timeline import Event, Timeline, VirtualClock
from fedhft.store.in_memory import InMemoryStore
from fedhft.training.worker import ClientWorker, Draft
from fedhft.v1 import capacity_pb2, federation_pb2

_TRIAL = LocalWork(forward=6.0, backward=6.0)
"""Layer-steps of a client's trial before it joins."""


@dataclass
class _Device:
    """What one client's device has done so far. filled: boundary -> batches of training rows that were passed to it;
    scored: boundaries that rows to score were passed to.
    """

    profile: Profile
    filled: dict[int, float] = field(default_factory=dict)
    scored: set[int] = field(default_factory=set)
    up_seconds: float = 0.0
    up_bytes: int = 0


@dataclass
class VirtualSimulation(Simulation):
    """A simulation over devices; `profiles` has one for every client."""

    profiles: Mapping[str, Profile] = field(default_factory=dict)
    clock: VirtualClock = field(default_factory=VirtualClock, init=False)
    busy: dict[int, list[float]] = field(default_factory=dict, init=False)
    """Round -> seconds that each delivered update took from the opening."""
    computing: dict[int, list[float]] = field(default_factory=dict, init=False)
    """The same without those of moving bytes."""
    _timeline: Timeline = field(default_factory=Timeline, init=False)
    _devices: dict[str, _Device] = field(default_factory=dict, init=False)
    _asked: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._devices = {name: _Device(profile) for name, profile in self.profiles.items()}

    def rules(self) -> RoundsSpec:
        """The job's own: deadlines pass here. Nobody falls silent, though; who does not deliver is late."""
        return self.spec.rounds.model_copy(update={"client_timeout": NO_HURRY_S, "min_clients": len(self.clients)})

    def store(self) -> InMemoryStore:
        """A store whose time is the clock's."""
        return InMemoryStore(clock=self.clock)

    def trial_of(self, name: str, worker: ClientWorker) -> capacity_pb2.Durations:
        """As the device would measure it."""
        told = self.profiles[name].durations(0, _TRIAL)
        told.scoring_batches = worker.rows.scored_about() / self.spec.training.batch_size
        return told

    def keeps_frozen_layers(self, name: str, worker: ClientWorker) -> bool:
        """As the profile says."""
        return self.profiles[name].keeps_frozen_layers

    def deepest(self, name: str) -> int:
        """As the profile says."""
        return self.profiles[name].deepest or 0

    async def pass_time(self, store: InMemoryStore, job: JobId, cached: CachedJob, wait_s: float) -> None:
        """Go to the next thing that happens, or to when the coordinator looks again."""
        current = cached.round
        if current is not None and current.phase is Phase.COLLECTING and current.number != self._asked:
            self._asked = current.number
            self._timeline.forget(current.number)
            for name in sorted(current.participants):
                await self._begin(store, job, cached, current, name)
        event = self._timeline.next_within(self.clock.now + wait_s)
        if event is None:
            self.clock.now += wait_s
            return
        self.clock.now = max(self.clock.now, event.at)
        await event.happen()

    async def _begin(
        self, store: InMemoryStore, job: JobId, cached: CachedJob, current: RoundRecord, name: str
    ) -> None:
        """A client hears of the round, fetches and computes; how long that takes is known at once."""
        device = self._devices[name]
        if current.number in device.profile.absent:
            return
        before = self._traffic[name].down
        task = await self.task_of(store, job, cached, name)
        if task is None:
            return
        fetched = self._traffic[name].down - before
        fetching = fetched / device.profile.down
        plan = self._workers[name].plan(task.plan)
        durations = device.profile.durations(current.number, self._work(device, name, task, plan))
        durations.down_seconds, durations.down_bytes = fetching, fetched
        durations.up_seconds, durations.up_bytes = device.up_seconds, device.up_bytes
        computing = durations.forward_seconds + durations.backward_seconds + durations.other_seconds
        at = self.clock.now + fetching + computing
        if isinstance(task, federation_pb2.TrainTask):
            happen = partial(self._trained, store, job, cached, name, task, durations)
        else:
            happen = partial(self.evaluate, store, job, current, name, task)
        self._timeline.add(Event(at, name, current.number, happen))

    def _work(
        self,
        device: _Device,
        name: str,
        task: federation_pb2.TrainTask | federation_pb2.EvaluateTask,
        plan: AdapterPlan,
    ) -> LocalWork:
        worker, layers = self._workers[name], self._workers[name].schema.layers
        batch_size = self.spec.training.batch_size
        evaluates = task.evaluate if isinstance(task, federation_pb2.TrainTask) else True
        scoring = worker.rows.scored(evaluates, task.shared) / batch_size
        once = worker.rows.scored(evaluates, task.shared, once=True) / batch_size
        steps, batches, boundary = worker.steps(plan), worker.samples / batch_size, layers - plan.depth
        # Rows are passed through the frozen layers when they are first drawn; those of a part of an epoch are drawn
        # anew every round.
        seen = device.filled.get(boundary, 0.0)
        new = min(float(steps), batches) * (1.0 - seen / batches)
        fill = new + (0.0 if boundary in device.scored else once)
        device.filled[boundary] = seen + new
        if scoring:
            device.scored.add(boundary)
        return LocalWork.of(
            layers=layers,
            depth=plan.depth,
            steps=steps,
            scoring=scoring,
            fill=fill,
            keeps=device.profile.keeps_frozen_layers,
        )

    async def _trained(
        self,
        store: InMemoryStore,
        job: JobId,
        cached: CachedJob,
        name: str,
        task: federation_pb2.TrainTask,
        durations: capacity_pb2.Durations,
    ) -> None:
        """A client has computed; its update is on its way."""
        device = self._devices[name]
        draft = await self.train(name, task)
        draft.measurements.durations.CopyFrom(durations)
        device.up_bytes, device.up_seconds = draft.size, draft.size / device.profile.up
        at = self.clock.now + device.up_seconds
        self._timeline.add(Event(at, name, int(task.round), partial(self._arrived, store, job, cached, name, draft)))

    async def _arrived(self, store: InMemoryStore, job: JobId, cached: CachedJob, name: str, draft: Draft) -> None:
        opened_ms = cached.round.opened_ms if cached.round is not None else 0
        seconds = self.clock.now - opened_ms / 1000
        moving = self._devices[name].up_seconds + draft.measurements.durations.down_seconds
        self.busy.setdefault(draft.round, []).append(seconds)
        self.computing.setdefault(draft.round, []).append(seconds - moving)
        await self.deliver(store, job, cached, name, draft, seconds)
