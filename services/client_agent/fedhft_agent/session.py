"""One client's part in one job: join, then task after task until the job is over.

An update goes through three steps: the worker keeps it on disk as soon as it is trained, the server acknowledges it,
the worker commits it. After a restart, what was trained but not acknowledged is delivered first, so a round is neither
lost nor trained twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.methods import Allocation
from fedhft.plan import steps_of
from fedhft.planning.peak import Unfit
from fedhft.planning.tiers import tier_of, too_large_for_all
from fedhft.process.signals import StopSignal
from fedhft.records import PlanTooLarge
from fedhft.rpc.retry import CallStoppedError
from fedhft.rpc.sockets import SocketBytes
from fedhft.telemetry import metrics
from fedhft.telemetry.collectors import peak_memory_bytes
from fedhft.telemetry.registry import known
from fedhft.training.learner import TrainingStopped
from fedhft.training.worker import ClientWorker, Draft
from fedhft.v1 import adapter_pb2, federation_pb2
from fedhft_agent.after_refusal import ASK_AGAIN, LEAVE_THE_JOB, LEAVE_THE_SERVER
from fedhft_agent.connection import Connection, one_line
from fedhft_agent.energy import NO_METER, EnergyMeter
from fedhft_agent.heartbeat import INTERVAL_S, Heartbeat
from fedhft_agent.links import Links
from fedhft_agent.owner_rules import NO_RULES, Asked, OwnerRules, check_task, most_steps
from fedhft_agent.tier_fit import tier_fit
from fedhft_agent.transfers import PayloadCount, pull_blob, push_update

log = logging.getLogger(__name__)

T = TypeVar("T")

_OUTCOMES = {
    federation_pb2.Outcome.KIND_SET_ASIDE: "set_aside",
    federation_pb2.Outcome.KIND_OPPOSED: "opposed",
    federation_pb2.Outcome.KIND_CLIPPED: "clipped",
}


@dataclass(frozen=True)
class Enlistment:
    """What a client tells a job about its machine."""

    tier: str
    """Tier asked for; empty lets the job decide."""


class _PlanDeclined(Exception):  # noqa: N818 - this round goes on without the client, the job with it
    """The plan of a round does not fit, and the server knows."""


class Session:
    """One job, from joining it to its end."""

    def __init__(
        self,
        connection: Connection,
        stop: StopSignal,
        spec: JobSpec,
        worker: ClientWorker,
        enlistment: Enlistment,
        rules: OwnerRules = NO_RULES,
        heartbeat_s: float = INTERVAL_S,
        energy: EnergyMeter = NO_METER,
    ) -> None:
        self._connection = connection
        self._stop = stop
        self._spec = spec
        self._worker = worker
        self._enlistment = enlistment
        self._rules = rules
        self._heartbeat_s = heartbeat_s
        self._tier = enlistment.tier
        self._payload = PayloadCount()
        self._links = Links()
        self._energy = energy
        self._deepest = 0
        self._carried_before = SocketBytes(0, 0)
        self._given_up = 0
        self._fruitless = 0
        self._too_large: dict[str, Unfit] = {}
        """Tiers whose plans do not fit this agent's memory."""

    def run(self) -> federation_pb2.FinishedTask:
        """Work until the job is over.

        Raises FedhftError, for what ends this job for this client, or ends the agent, and CallStoppedError.
        """
        try:
            return self._work()
        except TrainingStopped as error:
            raise CallStoppedError("stopped between two batches") from error

    def _work(self) -> federation_pb2.FinishedTask:
        self._carried_before = self._connection.meter.sample()
        try:
            self._join()
        except FedhftError as error:
            if error.code is not ErrorCode.JOB_NOT_RUNNING:
                raise  # if the job ended meanwhile, its next task says so
        draft = self._worker.pending()
        if draft is not None:
            self._check_draft(draft)
            log.info("delivering an update trained before the restart", extra={"round": draft.round})
            self._deliver(draft, resume=True)
        while True:
            answer = self._next_task()
            match answer.WhichOneof("task"):
                case "finished":
                    return answer.finished
                case "train":
                    self._guarded(answer.train.round, partial(self._train, answer.train))
                case "evaluate":
                    self._guarded(answer.evaluate.round, partial(self._evaluate, answer.evaluate))
                case _:
                    self._stop.sleep(answer.wait.retry_after_ms / 1000)

    def _check_draft(self, draft: Draft) -> None:
        """Hold a draft against the rules of now: its owner may have changed them before the restart.

        Only while its round is open: of a closed one the server takes nothing, and is asked before anything is sent.
        """
        try:
            answer = self._connection.next_task(self._spec.name, self._worker.held(), wait_ms=0)
        except FedhftError as error:
            if error.code in (ErrorCode.NOT_JOINED, ErrorCode.JOB_NOT_RUNNING):
                return
            raise
        task = answer.train
        if answer.WhichOneof("task") == "train" and task.round == draft.round:
            self._check_plan(task.plan, task.round, task.quorum, task.share)

    # -- joining and asking

    def _join(self) -> None:
        """Join with the largest tier whose plan fits; each that does not is declined with the numbers.

        Raises FedhftError(PLAN_TOO_LARGE) when the job has none that is small enough.
        """
        worker, spec = self._worker, self._spec
        while True:  # before the server is asked: a client that has joined is waited for
            tier = tier_of(spec, worker.client, worker.memory, self._enlistment.tier, self._declined_plans())
            if self._fits(tier):
                break
        log.info("joining", extra={"job": spec.name, "tier": tier})
        answer = self._ask_to_join()
        while answer.tier in spec.tiers and answer.tier != tier and not self._fits(answer.tier):
            tier, answer = answer.tier, self._ask_to_join()  # a server of another release decides otherwise
            if answer.tier == tier:
                raise too_large_for_all(spec, self._declined_plans())
        self._tier = answer.tier
        known(metrics.AGENT_PAYLOAD_BYTES, direction=("up",), payload=("update",), tier=(self._tier,))
        known(metrics.AGENT_PAYLOAD_BYTES, direction=("down",), payload=("delta", "snapshot"), tier=(self._tier,))
        known(metrics.AGENT_STEP_SECONDS, tier=(self._tier,))
        log.info(
            "joined",
            extra={
                "job": self._spec.name,
                "tier": answer.tier,
                "rows": self._worker.samples,
                "predicted_peak_bytes": self._worker.predicted_peak,
            },
        )

    def _fits(self, tier: str) -> bool:
        """Whether a tier's plan fits the memory; one that does not is noted as declined.

        Where the server plans by capacity, a plan of fewer layers will do; how many fit is told when joining.
        """
        found = tier_fit(self._worker, tier)
        self._deepest = found.layers
        if found.lacking is not None and not found.layers:
            self._decline(tier, found.lacking)
        return found.layers > 0

    def _decline(self, tier: str, lacking: Unfit) -> None:
        """Note that a tier's plan does not fit."""
        self._too_large[tier] = lacking
        metrics.AGENT_PLANS_TOO_LARGE.inc()
        log.warning(
            "plan declined: it does not fit the memory",
            extra={
                "job": self._spec.name, "tier": tier, "needed_bytes": lacking.needed, "allowed_bytes": lacking.allowed
            },
        )  # fmt: skip

    def _declined_plans(self) -> list[PlanTooLarge]:
        return [
            PlanTooLarge(tier=tier, needed=lacking.needed, allowed=lacking.allowed)
            for tier, lacking in sorted(self._too_large.items())
        ]

    def _ask_to_join(self) -> federation_pb2.JoinResponse:
        enlistment = self._enlistment
        signature = self._worker.signature()
        request = federation_pb2.JoinRequest(
            job=self._spec.name,
            schema_json=self._worker.schema.to_json(),
            samples=self._worker.samples,
            tier=enlistment.tier,
            signature=signature.whole,
            signature_halves=signature.halves,
            data_digest=self._worker.data_digest,
            has_shared_validation=self._worker.has_shared_validation,
            keeps_frozen_layers=self._worker.keeps_frozen_layers,
            too_large=[
                adapter_pb2.PlanTooLarge(tier=one.tier, needed_bytes=one.needed, allowed_bytes=one.allowed)
                for one in self._declined_plans()
            ],
        )
        if self._spec.method.allocation is Allocation.CAPACITY:
            request.durations.CopyFrom(self._worker.trial())
            request.deepest = self._greatest_depth()
            training = self._spec.training
            batches = steps_of(self._worker.samples, training.batch_size, 1.0, 0)
            request.most_steps = most_steps(self._rules, training.epochs, batches)
        return self._connection.join(request)

    def _greatest_depth(self) -> int:
        """Most layers that fit the memory and that the owner allows; 0: any."""
        limits = ([self._deepest] if self._worker.memory else []) + [self._rules.most_depth or 0]
        return min((limit for limit in limits if limit), default=0)

    def _next_task(self) -> federation_pb2.NextTaskResponse:
        try:
            answer = self._connection.next_task(
                self._spec.name,
                self._worker.held(),
                outcome_seen=self._worker.outcome_seen,
                held_bands=self._worker.held_bands(),
            )
        except FedhftError as error:
            if error.code is ErrorCode.NOT_JOINED:
                log.info("the job does not know this client; joining again", extra={"job": self._spec.name})
                self._join()
                return federation_pb2.NextTaskResponse(wait=federation_pb2.WaitTask(retry_after_ms=0))
            if error.code is ErrorCode.JOB_NOT_RUNNING:
                return federation_pb2.NextTaskResponse(finished=federation_pb2.FinishedTask(reason=error.message))
            raise
        if answer.HasField("outcome"):
            self._hear(answer.outcome)
        return answer

    def _hear(self, outcome: federation_pb2.Outcome) -> None:
        """Tell the owner, once, what a fold did with an update that it did not take as it was."""
        kind = _OUTCOMES.get(outcome.kind)
        if kind is None or not self._worker.hear(outcome.round, left_out=kind != "clipped"):
            return
        metrics.AGENT_UPDATES_BOUNDED.labels(outcome=kind).inc()
        fields = {"job": self._spec.name, "round": outcome.round, "reason": one_line(outcome.reason)}
        if kind == "clipped":
            log.info("update scaled down", extra={**fields, "factor": round(outcome.factor, 4)})
        else:
            log.warning("update accepted but not folded", extra={**fields, "outcome": kind})

    def _guarded(self, number: int, work: Callable[[], None]) -> None:
        """Do a task. A failure that concerns only this round is logged, and the round is not tried again."""
        if number == self._given_up:
            self._fruitless += 1
            self._connection.pause(self._fruitless)
            return
        try:
            with self._energy.metering():
                work()
        except _PlanDeclined:
            self._given_up = number
            self._connection.pause(1)
        except FedhftError as error:
            if error.code in LEAVE_THE_JOB or error.code in LEAVE_THE_SERVER:
                raise
            self._give_up(number, error)

    def _give_up(self, number: int, error: FedhftError) -> None:
        if error.code not in ASK_AGAIN:
            self._given_up = number
        self._fruitless += 1
        metrics.AGENT_REFUSALS.labels(code=error.code.value).inc()
        log.warning("task given up", extra={"round": number, "code": error.code.value, "detail": error.message})
        self._connection.pause(self._fruitless)

    # -- tasks

    def _train(self, task: federation_pb2.TrainTask) -> None:
        self._check_plan(task.plan, task.round, task.quorum, task.share)
        self._fetch(task.view.blobs)
        log.info("training", extra={"round": task.round, "version": task.view.version, "depth": task.plan.depth})
        draft = self._while_wanted(task.round, partial(self._worker.train, task))
        if draft is None:
            return
        figures = draft.measurements
        log.info("trained", extra={"round": task.round, "steps": figures.steps, "seconds": figures.train_seconds})
        if figures.steps:
            metrics.AGENT_STEP_SECONDS.labels(tier=self._tier).observe(figures.train_seconds / figures.steps)
        self._deliver(draft, resume=False)

    def _evaluate(self, task: federation_pb2.EvaluateTask) -> None:
        self._check_plan(task.plan, task.round)
        self._fetch(task.view.blobs)
        evaluated = self._while_wanted(task.round, partial(self._worker.evaluate, task))
        if evaluated is None:
            return
        scores, figures = evaluated
        answer = self._connection.report_evaluation(
            federation_pb2.ReportEvaluationRequest(
                job=self._spec.name,
                round=task.round,
                version=task.view.version,
                scores=scores,
                measurements=self._measured(figures),
            )
        )
        log.info("evaluated", extra={"round": task.round, "recorded": answer.recorded})

    def _while_wanted(self, number: int, work: Callable[[Callable[[], bool]], T]) -> T | None:
        """Compute, with signs of life; None when it was stopped because the result is no longer wanted."""
        with Heartbeat(self._connection, self._spec.name, number, self._heartbeat_s) as heartbeat:
            try:
                return work(lambda: self._stop.requested() or heartbeat.outdated())
            except TrainingStopped:
                if self._stop.requested():
                    raise
        metrics.AGENT_UPDATES.labels(outcome="broken_off").inc()
        log.info("the round is over without this client; training stopped", extra={"round": number})
        return None

    def _check_plan(
        self, message: adapter_pb2.AdapterPlan, number: int, quorum: int | None = None, share: float | None = None
    ) -> None:
        plan = self._worker.plan(message)
        steps = self._worker.steps(plan)
        check_task(self._rules, self._spec, Asked(number, plan, steps, quorum, share))
        lacking = self._worker.fit(plan)
        metrics.AGENT_PREDICTED_MEMORY_BYTES.set(self._worker.predicted_peak)
        if lacking is not None:  # the round opened before a smaller tier was asked for, or the job's plans changed
            if plan.tier in self._spec.tiers and plan.tier not in self._too_large:
                self._decline(plan.tier, lacking)
                self._join()
            raise _PlanDeclined

    def _fetch(self, refs: Iterable[adapter_pb2.BlobRef]) -> None:
        self._links.fetching()
        for ref in refs:
            before = self._payload.received
            with self._links.down.moving():
                data = pull_blob(self._connection, self._spec.name, ref, self._payload)
            self._links.down.bytes += self._payload.received - before
            kind = "snapshot" if ref.kind == adapter_pb2.BLOB_KIND_SNAPSHOT else "delta"
            moved = metrics.AGENT_PAYLOAD_BYTES.labels(direction="down", payload=kind, tier=self._tier)
            moved.inc(self._payload.received - before)
            with metrics.AGENT_CODING_SECONDS.labels(operation="decode").time():
                self._worker.apply(ref, data)

    def _deliver(self, draft: Draft, *, resume: bool) -> None:
        """Push a draft until it is acknowledged (then commit it) or refused for good (then abandon it)."""
        header = federation_pb2.UpdateHeader(
            job=self._spec.name,
            round=draft.round,
            base_version=draft.base_version,
            digest=bytes.fromhex(draft.digest),
            size=len(draft.blob),
            scores=draft.scores,
            measurements=self._measured(draft.measurements, about_to_send=len(draft.blob)),
            signature=draft.signature,
        )
        before = self._payload.sent
        try:
            self._links.delivering()
            with self._links.up.moving():
                result = push_update(self._connection, header, draft.blob, self._payload, resume=resume)
            self._links.up.bytes = self._payload.sent - before
        except FedhftError as error:
            if error.code in LEAVE_THE_JOB or error.code in LEAVE_THE_SERVER:
                raise
            self._worker.abandon(draft)
            metrics.AGENT_UPDATES.labels(outcome="abandoned").inc()
            self._give_up(draft.round, error)
            return
        finally:
            metrics.AGENT_PAYLOAD_BYTES.labels(direction="up", payload="update", tier=self._tier).inc(
                self._payload.sent - before
            )
        self._worker.commit(draft)
        self._fruitless = 0
        repeated = result == federation_pb2.PushUpdateResponse.RESULT_REPEATED
        metrics.AGENT_UPDATES.labels(outcome="repeated" if repeated else "accepted").inc()
        log.info("update accepted", extra={"round": draft.round, "bytes": len(draft.blob), "repeated": repeated})

    def _measured(self, figures: federation_pb2.Measurements, about_to_send: int = 0) -> federation_pb2.Measurements:
        """The worker's figures with the bytes this job has moved, including the update they are sent with.

        The kernel counts an update's bytes on the socket only once they are sent: those appear in the next report.
        """
        measured = federation_pb2.Measurements()
        measured.CopyFrom(figures)
        carried = self._connection.meter.sample()
        measured.socket_bytes_sent = carried.sent - self._carried_before.sent
        measured.socket_bytes_received = carried.received - self._carried_before.received
        measured.peak_rss_bytes = peak_memory_bytes()
        measured.payload_bytes_sent = self._payload.sent + about_to_send
        measured.payload_bytes_received = self._payload.received
        if measured.HasField("durations"):
            self._links.tell(measured.durations)
            self._energy.tell(measured.durations)
        return measured
