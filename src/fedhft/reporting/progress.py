"""How far a round is, and when it and its job will probably be over: for people who watch.

The time that a round takes is the median of the last rounds. Before the first one is over, the pace at which updates
arrived in this one. It is a guess: a round ends no later than its deadline, unless that is moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from fedhft.v1 import jobs_pb2

_COUNTED = 5
"""Rounds that the median is taken over."""
_BAR = 10


@dataclass(frozen=True)
class Progress:
    """A round now open. Times are seconds."""

    round: int
    total: int
    """Rounds of the job; 0 when not known. The final evaluation comes after them."""
    accepted: int
    target: int
    """Updates that close the round."""
    elapsed: float
    left: float | None
    """None when nothing can be said yet."""
    job_left: float | None

    def later(self, seconds: float) -> Progress:
        """The same as so much later, when nothing has been heard since."""
        left = None if self.left is None else max(0.0, self.left - seconds)
        job_left = None if self.job_left is None else max(left or 0.0, self.job_left - seconds)
        return Progress(self.round, self.total, self.accepted, self.target, self.elapsed + seconds, left, job_left)

    def __str__(self) -> str:
        done = min(_BAR, _BAR * self.accepted // max(1, self.target))
        bar = "#" * done + "-" * (_BAR - done)
        final = self.total and self.round > self.total
        name = "final evaluation" if final else f"round {self.round}{f' of {self.total}' if self.total else ''}"
        words = [f"{name} [{bar}] {self.accepted} of {self.target} clients, {length(self.elapsed)}"]
        if self.left is not None:
            words.append(f"about {length(self.left)} left" if self.left >= 1 else "due now")
        if self.job_left is not None and not final and self.round < self.total:
            words.append(f"{length(self.job_left)} for the job")
        return ", ".join(words)


def progress_of(job: jobs_pb2.Job, total: int) -> Progress | None:
    """Where the open round of a job is; None when there is none, the job waits, or the server does not tell.

    total: rounds of the job, 0 when not known.
    """
    if not job.open_round or job.paused or job.blocked or not job.HasField("open"):
        return None
    target, elapsed = job.open.target or job.asked, job.open.seconds
    lengths = [entry.seconds for entry in job.history[-_COUNTED:]]
    usual = median(lengths) if lengths else None
    if usual is None and job.accepted > 0:
        usual = elapsed * target / job.accepted
    left = None if usual is None else max(0.0, usual - elapsed)
    if left is not None and job.open.seconds_left > 0:
        left = min(left, job.open.seconds_left)
    following = max(0, total - job.open_round)
    job_left = None if left is None or usual is None or not total else left + following * usual
    return Progress(job.open_round, total, job.accepted, target, elapsed, left, job_left)


def length(seconds: float) -> str:
    """A length of time for people: 12 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
