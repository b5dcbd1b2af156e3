"""What the checks find out for each other, and the bound on the time of each."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.process.device_name import CPU
from fedhft.process.free_memory import FreeMemory
from fedhft.records import PlanTooLarge
from fedhft_agent.check.findings import Finding, Status, failed
from fedhft_agent.check.settings import CheckSettings

if TYPE_CHECKING:
    from fedhft.adapter import AdapterSchema

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownJob:
    """A job that the agent may have to serve."""

    spec: JobSpec
    submitted_by: str | None
    """None: not known, since it comes from a file."""


@dataclass(frozen=True)
class Fit:
    """The tier whose plan an agent would carry out here, and those that do not fit.

    layers: the most of the tier's layers that fit, in a job that plans by capacity; 0: all do.
    """

    tier: str
    declined: tuple[PlanTooLarge, ...]
    layers: int = 0


@dataclass
class Scene:
    """Filled by the checks in their order; what an earlier one could not find out stays empty."""

    settings: CheckSettings
    free: FreeMemory | None = None
    """Before anything large was loaded."""
    reachable: bool = False
    """Whether a call can get to the server, as far as is known."""
    files_sound: bool = False
    """Those of TLS, where it is used: readable, belonging together, in date."""
    jobs: list[KnownJob] = field(default_factory=list)
    device: str = CPU
    """Where the agent would train."""
    weights_bytes: int = 0
    """Of the base model in memory; 0 while unknown."""
    schemas: dict[str, AdapterSchema] = field(default_factory=dict)
    """By job, where the model could be loaded."""
    fits: dict[str, Fit | FedhftError | None] = field(default_factory=dict)
    """By job likewise: the plan that fits the memory, the refusal where none does, None where it is not known."""

    @property
    def specs(self) -> list[JobSpec]:
        """Of the known jobs."""
        return [job.spec for job in self.jobs]


@dataclass(frozen=True)
class Check:
    """One thing to look at. `look` yields findings; what it raises is one, too."""

    name: str
    look: Callable[[Scene], Iterable[Finding]]
    when_late: ErrorCode
    """The refusal that a check stands for which does not end."""


def run_check(check: Check, scene: Scene, patience_s: float) -> tuple[list[Finding], bool]:
    """The findings, and whether the check had to be left behind, in a thread that does not keep the process alive."""
    found: list[Finding] = []

    def look() -> None:
        try:
            found.extend(check.look(scene))
        except FedhftError as error:
            found.append(failed(check.name, error))
        except Exception as error:
            # One check that fails in a way nobody foresaw must not hide what the others find.
            log.exception("a check failed unexpectedly")
            found.append(failed(check.name, _defect(error)))

    thread = threading.Thread(target=look, name=f"check-{check.name}", daemon=True)
    thread.start()
    thread.join(patience_s)
    findings, late = list(found), thread.is_alive()
    if late:
        findings.append(failed(check.name, FedhftError(check.when_late, _late(patience_s))))
    return findings, late


def per_job(check: str, specs: Sequence[JobSpec], look: Callable[[JobSpec], Finding]) -> Iterator[Finding]:
    """A finding for each job. One that the agent could not serve is a warning while there is another that it could."""
    found = []
    for spec in specs:
        try:
            found.append(look(spec))
        except FedhftError as error:
            found.append(failed(check, FedhftError(error.code, f"job {spec.name}: {error.message}")))
    some = any(finding.status is not Status.FAILED for finding in found)
    yield from (finding.softened if some and finding.status is Status.FAILED else finding for finding in found)


def _late(patience_s: float) -> str:
    return f"did not end within {patience_s:g} s; see what it waits for, or allow more with --patience"


def _defect(error: Exception) -> FedhftError:
    return FedhftError(ErrorCode.INTERNAL, f"the check itself failed ({type(error).__name__}: {error}); report it")
