"""How people are shown a job: where it stands, its rounds, its clients, what happened to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from fedhft.cli.device_columns import device_columns
from fedhft.cli.output import Column, ago, console, print_table

if TYPE_CHECKING:
    from fedhft.v1 import clients_pb2, jobs_pb2

SHOWN_ROUNDS = 20
"""Rounds that people are shown unless they ask for others."""
STATES = {1: "live", 2: "silent", 3: "declined"}


def as_values(job: jobs_pb2.Job) -> dict[str, Any]:
    """A job for programs; its spec as an object."""
    from fedhft.documents import parse_json
    from fedhft.errors import ErrorCode, FedhftError
    from fedhft.jobs.messages import as_dict

    told = as_dict(job)
    text = told.pop("spec_json")
    try:
        spec = parse_json(text, "spec", ErrorCode.INVALID_JOB, most_bytes=len(text)) if text else None
    except FedhftError:  # damaged in the store; shown as it is
        spec = text
    return {**told, "spec": spec}


def print_jobs(jobs: Iterable[jobs_pb2.Job]) -> None:
    """A line per job."""
    columns = (
        Column("job"),
        Column("status"),
        Column("rounds", 1),
        Column("clients", 2),
        Column("best", 4),
        Column("age", 3),
        Column("reason", text=True),
    )
    rows = []
    for job in jobs:
        status, reason = standing(job)
        age = ago(job.age_seconds) if job.HasField("age_seconds") else ""
        best = f"{job.best.version} ({job.best.score:.3f})" if job.HasField("best") else ""
        rows.append((job.job, status, job.rounds_done, len(job.clients), best, age, reason))
    print_table(columns, rows)


def print_job(job: jobs_pb2.Job, rounds: int = SHOWN_ROUNDS) -> None:
    """Where a job stands and the last `rounds` rounds of its history (0: all that the message has)."""
    from fedhft.jobs.cluster_reason import common_view
    from fedhft.reporting.table import RoundTable

    status, reason = standing(job)
    typer.echo(f"{job.job}: {status}{f' ({reason})' if reason else ''}")
    by = f" by {job.submitted_by}" if job.submitted_by else ""
    if job.HasField("age_seconds"):
        typer.echo(f"submitted{by} {ago(job.age_seconds)} ago")
    elif by:
        typer.echo(f"submitted{by}")
    typer.echo(f"schema: {'pinned at submission' if job.schema_pinned else 'as the first client to join has it'}")
    typer.echo(f"clients: {', '.join(job.clients) or 'none yet'}")
    if job.open_round:
        typer.echo(f"round {job.open_round} is open: {job.accepted} of {job.asked} clients done")
    for line in _best(job):
        typer.echo(line)
    if rounds:
        del job.history[:-rounds]
    for line in missing_rounds(job):
        typer.echo(line)
    if job.history:
        table = RoundTable(console(), several=False)
        table.take_in(job.job, job)
        table.print()
    if line := common_view(job):
        typer.echo(line)


def ending(job: jobs_pb2.Job) -> list[str]:
    """Why a job ended earlier than planned, if it did, and which of its versions was the best."""
    return [*([job.reason] if job.reason else []), *_best(job)]


def _best(job: jobs_pb2.Job) -> list[str]:
    """A line on the best version; none before one was scored."""
    if not job.HasField("best"):
        return []
    best = job.best
    waited = f", {best.waited} scored since" if best.waited else ""
    return [f"best version: {best.version}, {best.by} {best.score:.4g}, measured in round {best.round}{waited}"]


def print_clients(clients: Iterable[clients_pb2.JobClient]) -> None:
    """A line per client of a job, with what was measured of its device where jobs plan by that."""
    listed = list(clients)
    measured = device_columns([one.capacity for one in listed], less=6)
    columns = (
        Column("client"),
        Column("state"),
        Column("tier", 1),
        Column("samples", 4),
        Column("rounds", 2),
        Column("since", 5),
        Column("last seen", 3),
        *(column for column, _ in measured),
        Column("reason", text=True),
    )
    rows = [
        (
            one.client,
            STATES.get(one.state, "unknown"),
            one.tier,
            one.samples,
            one.rounds_delivered,
            ago(one.joined_seconds) if one.HasField("joined_seconds") else "",
            f"{ago(one.seen_seconds)} ago" if one.HasField("seen_seconds") else "",
            *(tell(one.capacity) for _, tell in measured),
            one.reason or _treated(one),
        )
        for one in listed
    ]
    print_table(columns, rows)


def print_memberships(job: str, memberships: Any) -> None:
    """A line per client with its weights over the clusters; the first clusters where there is no room for all."""
    from fedhft.jobs.cluster_reason import reason

    count = memberships.clusters
    columns = (
        Column("client"),
        Column("cluster"),
        *(Column(str(cluster), 1 + cluster) for cluster in range(count)),
    )
    rows = []
    for row in memberships.rows:
        largest = max(range(len(row.weights)), key=row.weights.__getitem__, default=0)
        rows.append((row.client, largest, *row.weights))
    title = f"{job}: weights over clusters, membership version {memberships.version}, after round {memberships.round}"
    print_table(columns, rows, title)
    if told := reason(memberships):
        console().print(told, markup=False, highlight=False)
    if memberships.choice.tried:
        tried = [
            (one.clusters, f"{one.gain:.3f}", f"{one.step:.3f}", f"{one.t:.1f}", _verdict(one, memberships))
            for one in memberships.choice.tried
        ]
        print_table(
            (Column("J"), Column("gain"), Column("over fewer"), Column("t"), Column("verdict")), tried,
            "numbers of clusters that were tried",
        )  # fmt: skip


def _verdict(one: Any, memberships: Any) -> str:
    if one.clusters == memberships.choice.found:
        return "found"
    return "in force" if one.clusters == memberships.clusters else ""


def print_events(answer: jobs_pb2.ListEventsResponse) -> None:
    """A line per event, with the local time of the person who looks."""
    columns = (Column("when"), Column("age", 1), Column("what"), Column("detail", text=True))
    rows = [
        (
            _when(event),
            ago(max(0, answer.now_ms - event.at_ms) / 1000),
            _what(event),
            event.text,
        )
        for event in answer.events
    ]
    print_table(columns, rows)


def event_lines() -> Callable[[jobs_pb2.JobEvent], None]:
    """What prints an event as a line of its own, at once: nobody knows what follows, so there are no columns to fit."""
    out = console()

    def show(event: jobs_pb2.JobEvent) -> None:
        line = "  ".join(filter(None, (_when(event), _what(event), event.text)))
        out.print(line, markup=False, highlight=False, soft_wrap=True)

    return show


def _when(event: jobs_pb2.JobEvent) -> str:
    """In the time zone of the person who looks."""
    return f"{datetime.fromtimestamp(event.at_ms / 1000).astimezone():%m-%d %H:%M:%S}"


def _what(event: jobs_pb2.JobEvent) -> str:
    kind = event.kind.replace("_", " ")
    if event.client:
        return f"{event.client} {kind}{f' in round {event.round}' if event.round else ''}"
    return f"round {event.round} {kind}" if event.round else f"job {kind}"


def _treated(client: clients_pb2.JobClient) -> str:
    """What the last fold made of its update, or else which plans do not fit its memory, if anything."""
    from fedhft.reporting.table import size

    if client.set_aside:
        return f"set aside: {client.set_aside}"
    if client.HasField("clipped"):
        return f"clipped to {client.clipped:.2f} of its size"
    return "; ".join(
        f"tier {one.tier} needs {size(one.needed_bytes)} of {size(one.allowed_bytes)}" for one in client.too_large
    )


def standing(job: jobs_pb2.Job) -> tuple[str, str]:
    """Where a job stands, and why, for people."""
    if job.paused:
        return f"{job.status}, paused", job.paused
    if job.blocked:
        return f"{job.status}, blocked", job.blocked
    return job.status, job.reason


def matches(job: jobs_pb2.Job, wanted: Sequence[str]) -> bool:
    """Whether a job is in one of these states; none given: always."""
    states = {job.status, *(["paused"] if job.paused else []), *(["blocked"] if job.blocked else [])}
    return not wanted or bool(states.intersection(wanted))


def missing_rounds(job: jobs_pb2.Job) -> list[str]:
    """What people have to know of the rounds that are not among those shown."""
    lines = []
    kept_from = job.history_from or 1  # servers of earlier releases keep all
    if kept_from > 1:
        lines.append(f"{_rounds(1, kept_from - 1)} no longer kept")
    if job.history and job.history[0].round > kept_from:
        older = _rounds(kept_from, job.history[0].round - 1)
        lines.append(f"{older} not shown; `fedhft job get {job.job} --rounds 0` shows all that are kept")
    return lines


def _rounds(first: int, last: int) -> str:
    return f"round {first} is" if first == last else f"rounds {first} to {last} are"
