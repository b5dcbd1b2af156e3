"""What a person sees while a demo runs: a live table on a terminal, one line per round anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from fedhft.documents import parse_json
from fedhft.errors import ErrorCode, FedhftError
from fedhft.reporting.columns import fitting, left_out
from fedhft.reporting.progress import Progress, progress_of
from fedhft.reporting.result import measured
from fedhft.v1 import jobs_pb2

_COLUMNS = (
    "round",
    "mean",
    "worst tenth",
    "after",
    "shared",
    "loss",
    "up",
    "down",
    "seconds",
    "scoring",
    "layers",
    "waiting",
    "clusters",
)
_WIDTHS = (5, 5, 5, 5, 6, 5, 9, 9, 7, 7, 6, 7, 8)
"""Minimum widths: no figure is cut, and a long list of cluster sizes takes several lines."""
_RANKS = (0, 0, 5, 2, 3, 8, 1, 4, 6, 11, 9, 10, 7)
"""Which columns are left out first where a terminal is narrower than that: those with the largest."""
_CAPTION = (
    "mean and worst tenth: clients' own held-out rows at the start of the round; after: mean after local training; "
    "shared: common validation rows; loss: median over clients of that at the start; up, down: adapters of all clients"
    "; scoring: seconds of a client, mean; layers: with adapters, fewest to most; waiting: share of the time to the "
    "last update, mean"
)


class RoundTable:
    """A row for every round of every run, as it is published. A context manager."""

    def __init__(self, console: Console, several: bool = True) -> None:
        """`several`: there is a run per method, named in the first column."""
        self._console = console
        self._several = several
        self._rows: dict[tuple[str, str], tuple[str, ...]] = {}
        self._status: str | Callable[[], str] = ""
        self._live: Live | None = None
        self._totals: dict[str, int] = {}
        self._told_round = ("", 0)

    def __enter__(self) -> RoundTable:
        if self._console.is_terminal:
            # Rendered anew for every refresh: the time that is left runs between two messages, too.
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._status = ""
            self._live.stop()

    def say(self, text: str) -> None:
        """Show a sentence about what is happening now."""
        if self._live is None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._status = text

    def show(self, run: str, job: jobs_pb2.Job) -> None:
        """Add a job's state and show what is new."""
        for row in self.take_in(run, job):
            if self._live is None:
                line = ", ".join(f"{title} {cell}" for title, cell in zip(_COLUMNS[1:], row[2:], strict=True))
                self._console.print(f"{row[0]} round {row[1]}: {line}", markup=False, highlight=False, soft_wrap=True)
        progress = progress_of(job, self._total(run, job))
        if self._live is not None:
            self._status = _words(run, job) if progress is None else _running(run, progress)
        elif progress is not None and (run, job.open_round) != self._told_round:
            self._told_round = (run, job.open_round)
            self._console.print(f"{run}: {progress}", markup=False, highlight=False, soft_wrap=True)

    def _total(self, run: str, job: jobs_pb2.Job) -> int:
        """Rounds of the job, 0 when it does not say."""
        if run not in self._totals and job.spec_json:
            try:
                spec = parse_json(job.spec_json, "spec", ErrorCode.INVALID_JOB, most_bytes=len(job.spec_json))
                self._totals[run] = int(spec["rounds"]["total"])
            except (FedhftError, KeyError, TypeError, ValueError):  # damaged in the store
                self._totals[run] = 0
        return self._totals.get(run, 0)

    def take_in(self, run: str, job: jobs_pb2.Job) -> list[tuple[str, ...]]:
        """Add a row for every new round; returns these rows."""
        entries = [(str(entry.round), entry) for entry in job.history]
        if job.HasField("final"):
            entries.append(("final", job.final))
        new = [row_of(run, name, entry) for name, entry in entries if (run, name) not in self._rows]
        self._rows.update({(row[0], row[1]): row for row in new})
        return new

    def print(self) -> None:
        """The table as it stands."""
        self._console.print(self._render())

    def _render(self) -> Table:
        first = [max((len(run) for run, _ in self._rows), default=6)] if self._several else []
        places, _ = fitting([*first, *_WIDTHS], [*(0 for _ in first), *_RANKS], 1, self._console.width)
        shown = [place - len(first) for place in places if place >= len(first)]
        missing = left_out(_COLUMNS, shown)
        status = self._status if isinstance(self._status, str) else self._status()
        table = Table(
            caption=escape(status)
            if status
            else " ".join(filter(None, (f"{_CAPTION}." if missing else _CAPTION, missing))),
            caption_justify="left",
            box=SIMPLE_HEAD,
            padding=0,
            show_edge=False,
        )
        if self._several:
            table.add_column("method", no_wrap=True, min_width=first[0])
        for column, width in ((_COLUMNS[place], _WIDTHS[place]) for place in shown):
            table.add_column(
                column.replace(" ", "\n"),
                justify="left" if column == "clusters" else "right",
                no_wrap=column != "clusters",
                overflow="fold",
                min_width=width,
            )
        last = None
        for (run, _), row in self._rows.items():
            if last is not None and run != last:
                table.add_row()
            last = run
            cells = [row[1 + place] for place in shown]
            table.add_row(*([row[0], *cells] if self._several else cells))
        return table


def _words(run: str, job: jobs_pb2.Job) -> str:
    """What is known of a job of which no round is on its way."""
    waiting = f"{job.accepted} of {job.asked} clients done" if job.open_round else job.reason or job.status
    waiting = job.paused or job.blocked or waiting
    what = f"round {job.open_round}" if job.open_round else f"{len(job.clients)} clients"
    return f"{run}: {what}, {waiting}"


def _running(run: str, progress: Progress) -> Callable[[], str]:
    since = time.monotonic()
    return lambda: f"{run}: {progress.later(time.monotonic() - since)}"


def row_of(run: str, name: str, entry: jobs_pb2.RoundSummary) -> tuple[str, ...]:
    """One row's cells, in the order of the columns."""
    return (
        run,
        name,
        shown(measured(entry, "personal_before_mean")),
        shown(measured(entry, "personal_before_worst_tenth")),
        shown(measured(entry, "personal_after_mean")),
        shown(measured(entry, "shared_before")),
        shown(measured(entry, "personal_loss_before_median")),
        size(entry.payload_bytes_up),
        size(entry.payload_bytes_down),
        f"{entry.seconds:.1f}",
        f"{entry.evaluate_seconds_mean:.1f}" if entry.evaluate_seconds_mean else "-",
        depths(entry.work),
        f"{entry.work.waiting:.0%}" if entry.work.waiting else "-",
        "+".join(map(str, entry.cluster_sizes)) or "-",
    )


def depths(work: jobs_pb2.RoundWork) -> str:
    """Fewest and most layers that were trained, or a dash where that is not known."""
    least, most = work.depth_least, work.depth_most
    return f"{least}-{most}" if least != most else str(most or "-")


def shown(value: float | None) -> str:
    """A score, or a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"


def size(count: float | None) -> str:
    """Bytes for people: powers of 1024, at most 9 characters up to 1000 GiB."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if count < 999.95:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
