"""The agent's process: what it holds for its whole life, and which job it serves next."""

from __future__ import annotations

import hashlib
import logging
import os
import random
from collections.abc import Collection
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import load_canonical
from fedhft.paths import expanded
from fedhft.process.presence import announce, pages
from fedhft.process.signals import StopSignal
from fedhft.rpc.retry import CallStoppedError
from fedhft.telemetry import metrics
from fedhft.v1 import federation_pb2
from fedhft_agent.after_refusal import DECLINE_THE_JOB, LEAVE_THE_JOB, LEAVE_THE_SERVER
from fedhft_agent.connection import Connection, Peer
from fedhft_agent.device_recovery import check_device, come_back
from fedhft_agent.offers import Offers
from fedhft_agent.own_expiry import OwnExpiry
from fedhft_agent.owner_rules import check_offer
from fedhft_agent.settings import AgentSettings
from fedhft_agent.state_directory import StateDirectory

if TYPE_CHECKING:
    from fedhft.datasets.client_data import ClientData
    from fedhft.job import JobSpec
    from fedhft_agent.workplace import Workplace

log = logging.getLogger(__name__)

_LONGEST_IDLE_S = 10.0
_KEEP_UNSEEN_S = 7 * 86400.0
"""How long the state of a job not on offer is kept, in case the agent was pointed at the wrong server."""
_EXIT_OF_STATUS = {"completed": 0, "failed": 42, "cancelled": 13}
_NO_STATUS_EXIT = 13
_SAID = {
    **dict.fromkeys(DECLINE_THE_JOB, "job declined"),
    ErrorCode.DEVICE_FAILED: "the device failed; trying again",
}
"""How the end of a job is logged that is not over; others are left."""
_CAUSES = {ErrorCode.INVALID_DATA: "data", ErrorCode.INVALID_MODEL: "model", ErrorCode.DEVICE_FAILED: "device"}
"""Refusals of what this machine has, and the label under which they are counted."""


class Presence:
    """What /readyz says: whether the server answers and data and model are sound, or else what the agent waits for."""

    def __init__(self) -> None:
        self._reached = False
        self._enrolled = False
        self._blocked: dict[str, tuple[str, str]] = {}
        """Cause and reason of each job on offer that cannot be served with this data and model."""
        self._last = ""
        """The job taken last."""

    def contact(self, reached: bool) -> None:
        """Note the outcome of an attempt at a call."""
        self._reached = reached

    def enrolled(self) -> None:
        """Note that the server knows this agent."""
        self._enrolled = True

    def offered(self, jobs: Collection[str]) -> None:
        """Note which jobs are on offer: others block nothing any more."""
        self._block({job: found for job, found in self._blocked.items() if job in jobs})

    def served(self, job: str) -> None:
        """Note that data and model are fit for a job, which begins."""
        self._last = job
        self._block({other: found for other, found in self._blocked.items() if other != job})

    def refused(self, job: str, error: FedhftError) -> None:
        """Note why a job cannot be served."""
        if error.code in _CAUSES:
            self._last = job
            self._block({**self._blocked, job: (_CAUSES[error.code], error.message)})

    def ready(self) -> tuple[bool, str]:
        """Answer of the readiness page. Of several jobs, the one taken last tells whether data and model are sound."""
        if not self._enrolled:
            return False, "not enrolled yet"
        if not self._reached:
            return False, "the server does not answer"
        _, reason = self._blocked.get(self._last, ("", ""))
        return (False, f"job {self._last}: {reason}") if reason else (True, "")

    def _block(self, blocked: dict[str, tuple[str, str]]) -> None:
        self._blocked = blocked
        for cause in _CAUSES.values():
            count = sum(found == cause for found, _ in blocked.values())
            metrics.AGENT_JOBS_BLOCKED.labels(cause=cause).set(count)


def run(settings: AgentSettings) -> int:
    """Serve jobs until stopped, or as long as the settings say; returns the exit code.

    Raises FedhftError for what ends the agent: a refusal that only a person can resolve, or a server that it gave up
    on.
    """
    presence = Presence()
    check_device(settings.device)
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal())
        state = stack.enter_context(StateDirectory(settings.state_folder))
        connection = stack.enter_context(Connection(_peer(settings), stop, presence.contact))
        metrics.AGENT_SOCKET_BYTES.measure(connection.meter.sample)
        metrics.AGENT_CERTIFICATE_EXPIRY_SECONDS.set_function(OwnExpiry(settings.tls).seconds)
        announce(metrics=stack.enter_context(pages(settings, presence.ready)))
        try:
            return _Agent(settings, state, connection, stop, presence).serve()
        except CallStoppedError:
            log.info("stopped")
            return 0


class _Agent:
    def __init__(
        self,
        settings: AgentSettings,
        state: StateDirectory,
        connection: Connection,
        stop: StopSignal,
        presence: Presence,
    ) -> None:
        self._settings = settings
        self._state = state
        self._connection = connection
        self._stop = stop
        self._presence = presence
        self._offers = Offers(only=settings.job)
        self._workplace: Workplace | None = None
        self._device: str | None = None
        """Name of the device in use, which stays the same when it fails."""
        self._specs: dict[str, tuple[bytes, str]] = {}
        self._last = settings.once or settings.job is not None

    def serve(self) -> int:
        idle, unseen = 0, 0
        while True:
            offers = self._connection.enroll()
            self._presence.enrolled()
            self._presence.offered([o.job for o in offers])
            self._state.sweep([self._state.job(o.job, o.spec_digest) for o in offers], _KEEP_UNSEEN_S)
            offer = self._offers.choose(offers)
            if offer is not None:
                idle = unseen = 0
                code = self._take(offer)
                if code is not None:
                    return code
                continue
            if self._settings.job is not None and not any(o.job == self._settings.job for o in offers):
                ended = self._named_job_ended(unseen)
                if ended is not None:
                    return ended
                unseen += 1
            if idle == 0:
                log.info("waiting for a job")
            idle += 1
            self._stop.sleep(random.uniform(0.5, 1.0) * min(_LONGEST_IDLE_S, 1.5**idle))

    def _take(self, offer: federation_pb2.JobOffer) -> int | None:
        """Serve a job; the exit code if the agent is to end with it."""
        try:
            finished = self._serve_job(offer)
        except FedhftError as error:
            self._presence.refused(offer.job, error)
            if error.code is ErrorCode.JOB_NOT_RUNNING and not self._last:
                log.info("the job ended before this agent joined it", extra={"job": offer.job})
                self._offers.failed(offer.job, error.message)
                return None
            if error.code is ErrorCode.DEVICE_FAILED:
                self._workplace = None  # all that it holds is on the device
            elif self._last or error.code in LEAVE_THE_SERVER:
                self._leave(offer.job, error)
                raise
            seconds, news = self._offers.failed(offer.job, error.message)
            metrics.AGENT_REFUSALS.labels(code=error.code.value).inc()
            # The same refusal every half hour would bury what is new in the owner's log.
            log.log(
                logging.ERROR if news else logging.DEBUG,
                _SAID.get(error.code, "job left"),
                extra={"job": offer.job, "code": error.code.value, "detail": error.message, "again_in_s": seconds},
            )
            self._leave(offer.job, error)
            return None
        self._offers.ended(offer.job)
        self._specs.pop(offer.job, None)
        self._state.forget(offer.job, offer.spec_digest)
        return self._exit_code(offer.job, finished) if self._last else None

    def _serve_job(self, offer: federation_pb2.JobOffer) -> federation_pb2.FinishedTask:
        spec, settings = load_canonical(self._spec_of(offer)), self._settings
        check_offer(settings.rules, spec, offer.submitted_by)
        log.info("serving a job", extra={"job": offer.job})
        data = _data(settings, spec)
        _check_model_folder(settings.model or spec.model.name)
        if self._workplace is None:
            self._workplace = _workplace(settings, self._device)
            self._device = str(self._workplace.device)
        state = self._state.job(offer.job, offer.spec_digest)
        with self._workplace.failures():
            session = self._workplace.session(self._connection, self._stop, spec, data, state)
            self._presence.served(offer.job)
            finished = session.run()
        log.info("job over", extra={"job": offer.job, "status": finished.status, "reason": finished.reason})
        return finished

    def _spec_of(self, offer: federation_pb2.JobOffer) -> str:
        """The spec of a job on offer; fetched once, and again when the job under that name is another."""
        digest, text = self._specs.get(offer.job, (b"", ""))
        if digest != offer.spec_digest:
            fetched = self._connection.offer(offer.job)
            digest, text = self._specs[offer.job] = fetched.spec_digest, fetched.spec_json
        if hashlib.sha256(text.encode()).digest() != offer.spec_digest:
            raise FedhftError(ErrorCode.INVALID_JOB, f"job {offer.job}: its spec is not the one on offer; ask again")
        return text

    def _leave(self, job: str, error: FedhftError) -> None:
        if error.code in DECLINE_THE_JOB:
            with suppress(FedhftError):
                self._connection.decline(job, error.message)
                return  # a server of an earlier release does not know this call
        if error.code in LEAVE_THE_JOB and error.code is not ErrorCode.UNKNOWN_JOB:
            with suppress(FedhftError):
                self._connection.leave(job)

    def _named_job_ended(self, unseen: int) -> int | None:
        """Find out why the job asked for is not on offer: it is over, closed to this client, or yet to come."""
        job = str(self._settings.job)
        try:
            answer = self._connection.next_task(job, (), wait_ms=0)
        except FedhftError as error:
            if error.code is ErrorCode.NOT_JOINED and unseen > 0:
                raise FedhftError.field(
                    ErrorCode.NOT_AUTHORISED, "--job", job, f"is not open to client {self._settings.client}",
                    "ask the job's owner to add the client",
                ) from error  # fmt: skip
            if error.code in (ErrorCode.NOT_JOINED, ErrorCode.UNKNOWN_JOB):
                return None
            raise
        return self._exit_code(job, answer.finished) if answer.WhichOneof("task") == "finished" else None

    def _exit_code(self, job: str, finished: federation_pb2.FinishedTask) -> int:
        code = _EXIT_OF_STATUS.get(finished.status, _NO_STATUS_EXIT)
        if code:
            log.error(
                "job ended without a result", extra={"job": job, "status": finished.status, "reason": finished.reason}
            )
        return code


def _data(settings: AgentSettings, spec: JobSpec) -> ClientData:
    """This client's rows, read before the tensor library is loaded, so that bad rows are reported at once."""
    fix_threads(settings.threads)
    from fedhft.datasets.client_data import load_client_data

    return load_client_data(spec, settings.client, settings.data, settings.holdout, settings.shared_validation)


def _check_model_folder(name: str) -> None:
    """Look for missing and torn files before the tensor library is loaded. A hub id is checked when it is loaded.

    Raises FedhftError(INVALID_MODEL).
    """
    folder = expanded(name)
    if folder.is_dir():
        from fedhft.training.digest import read_config, tokenizer_digest
        from fedhft.training.stored_weights import stored_values

        read_config(folder)
        stored_values(folder)
        tokenizer_digest(folder)


def _workplace(settings: AgentSettings, device: str | None) -> Workplace:
    """Load the tensor library. device: the one in use before it failed. Raises FedhftError(DEVICE_FAILED) if it did."""
    fix_threads(settings.threads)
    from fedhft_agent.workplace import Workplace

    try:
        return Workplace(settings, device)
    except FedhftError:
        if device is None:
            raise
        come_back(device)
        raise


def fix_threads(threads: int) -> None:
    """Set the number of threads; call it before numpy and torch are imported, which is when they read it."""
    if threads:
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[variable] = str(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if threads == 1 else "true")


def _peer(settings: AgentSettings) -> Peer:
    return Peer(
        server=settings.server,
        client=settings.client,
        memory_bytes=settings.memory,
        tls=settings.tls,
        give_up_after_s=settings.give_up_after_s,
    )
