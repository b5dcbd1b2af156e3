"""From `tensorboard=DIR` or `mlflow=URI` to a tracker, and from a job that is watched to what a tracker is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from fedhft.errors import ErrorCode, FedhftError
from fedhft.paths import expanded
from fedhft.reporting.trackers.figures import Tracker, figures_of
from fedhft.reporting.trackers.mlflow import MLflow, check_address
from fedhft.reporting.trackers.tensorboard import TensorBoard
from fedhft.v1 import jobs_pb2


def parse_tracker(text: str) -> tuple[str, str]:
    """What kind of tracker, and its folder or address. Raises FedhftError(INVALID_ARGUMENT)."""
    kind, _, where = text.partition("=")
    if kind not in ("tensorboard", "mlflow") or not where or "\0" in where:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--tracker", text, "is not a tracker", "write tensorboard=DIR or mlflow=URI"
        )
    return kind, check_address(where) if kind == "mlflow" else where


def open_tracker(text: str, job: str) -> Tracker:
    """Raises FedhftError: what `parse_tracker` raises, and what the tracker raises."""
    kind, where = parse_tracker(text)
    return MLflow(where, job) if kind == "mlflow" else TensorBoard(expanded(where), job)


class Trackers:
    """Several trackers of one job. Every round is written once, in whichever message it comes."""

    def __init__(self) -> None:
        self._trackers: list[Tracker] = []
        self._told = 0
        self._final = False
        self.completed = False
        """Whether the job did, as far as was told."""

    def add(self, tracker: Tracker) -> None:
        """One more tracker, before anything is told."""
        self._trackers.append(tracker)

    def tell(self, job: jobs_pb2.Job) -> None:
        """Write what is new in a job's history, and its final figures, under `final/`."""
        for summary in job.history:
            if summary.round > self._told:
                self._told = summary.round
                for tracker in self._trackers:
                    tracker.write(summary.round, figures_of(summary))
        if job.HasField("final") and not self._final:
            self._final = True
            last = {f"final/{name}": value for name, value in figures_of(job.final).items()}
            for tracker in self._trackers:
                tracker.write(job.final.round, last)
        self.completed = job.status == "completed"


@contextmanager
def tracking(wanted: Sequence[str], job: str) -> Iterator[Trackers]:
    """The trackers of a job that is about to be watched; each is closed at the end, whatever became of the others."""
    with ExitStack() as opened:
        trackers = Trackers()
        for text in wanted:
            tracker = open_tracker(text, job)
            trackers.add(tracker)
            opened.callback(_close, tracker, trackers)
        yield trackers


def _close(tracker: Tracker, trackers: Trackers) -> None:
    tracker.close(trackers.completed)
