"""From `tensorboard=DIR` or `mlflow=URI` to a tracker, and from a job that is watched to what a tracker is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fedhft.errors import ErrorCode, FedhftError
from fedhft.reporting.trackers.figures import Tracker, figures_of
from fedhft.reporting.trackers.mlflow import MLflow
from fedhft.reporting.trackers.tensorboard import TensorBoard
from fedhft.v1 import jobs_pb2


def open_tracker(text: str, job: str) -> Tracker:
    """Raises FedhftError(INVALID_ARGUMENT) for another word, and what the tracker raises."""
    kind, _, where = text.partition("=")
    if kind == "tensorboard" and where:
        return TensorBoard(Path(where).expanduser(), job)
    if kind == "mlflow" and where:
        return MLflow(where, job)
    raise FedhftError.field(
        ErrorCode.INVALID_ARGUMENT, "--tracker", text, "is not a tracker", "write tensorboard=DIR or mlflow=URI"
    )


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
