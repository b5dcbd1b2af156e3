"""From `tensorboard=DIR` or `mlflow=URI` to a tracker, and from a job that is watched to what a tracker is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers
        self._told = 0
        self._final = False
        self._completed = False

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
        self._completed = job.status == "completed"

    def close(self) -> None:
        """No more comes."""
        for tracker in self._trackers:
            tracker.close(self._completed)


@contextmanager
def tracking(wanted: Sequence[str], job: str) -> Iterator[Trackers]:
    """The trackers of a job that is about to be watched; closed at the end."""
    trackers = Trackers([open_tracker(text, job) for text in wanted])
    try:
        yield trackers
    finally:
        trackers.close()
