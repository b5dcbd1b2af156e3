"""`fedhft job ...`: submitting and watching jobs on an aggregator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedhft.cli.output import OutputFormat, print_json, print_table
from fedhft.cli.server_options import ServerOptions, with_server_options
from fedhft.rounds.paging import HISTORY_PAGE

if TYPE_CHECKING:
    from fedhft.v1 import jobs_pb2

app = typer.Typer(help="Submit and watch jobs on an aggregator.", no_args_is_help=True)

_LISTED = ("job", "status", "reason", "paused", "blocked", "rounds_done", "clients", "open_round", "accepted", "asked")
"""Fields of a job that `list` shows to programs."""

_SHOWN_ROUNDS = 20
"""Rounds that people are shown unless they ask for others."""

JobArgument = Annotated[str, typer.Argument(help="Name of the job.")]


@app.command()
@with_server_options
def submit(
    options: ServerOptions,
    file: Annotated[Path, typer.Argument(help="Job file, TOML; `fedhft job schema` describes it.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder of the base model: pins what is trained, so that no client decides it. Needs `fedhft[agent]`.",
            show_default="the first client to join decides",
        ),
    ] = None,
) -> None:
    """Check a job file and store the job. Submitting the identical job again is fine."""
    from fedhft.job import read_job

    spec, schema = read_job(file), None
    if model is not None:
        from fedhft.training.base import load_base
        from fedhft.training.schema import build_schema

        schema = build_schema(load_base(spec, model), spec)
    with options.client() as client:
        _report(client.submit(spec, schema), options.format)


@app.command("list")
@with_server_options
def list_jobs(options: ServerOptions) -> None:
    """List every job, oldest first."""
    with options.client() as client:
        jobs = client.list()
    if options.format is OutputFormat.JSON:
        print_json({"jobs": [{key: full[key] for key in _LISTED} for full in map(_as_dict, jobs)]})
    else:
        rows = []
        for job in jobs:
            status, reason = _standing(job)
            rows.append((job.job, status, job.rounds_done, len(job.clients), reason))
        print_table(("job", "status", "rounds", "clients", "reason"), rows)


@app.command()
@with_server_options
def get(
    options: ServerOptions,
    job: JobArgument,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="How many of the last rounds to show; 0: all that are kept.",
            show_default=f"{_SHOWN_ROUNDS}; all with --format json",
        ),
    ] = None,
) -> None:
    """Show one job: where it stands, its last rounds, its scores."""
    if rounds is None:
        rounds = 0 if options.format is OutputFormat.JSON else _SHOWN_ROUNDS
    with options.client() as client:
        _report(client.get(job, rounds or None), options.format, rounds)


@app.command()
@with_server_options
def watch(
    options: ServerOptions,
    job: JobArgument,
    rounds: Annotated[
        int,
        typer.Option(
            min=0,
            max=HISTORY_PAGE,
            help="How many of the rounds published so far to begin with; 0: all that are kept.",
        ),
    ] = _SHOWN_ROUNDS,
) -> None:
    """Follow a job until it ends (--format json: an object per line and change). Exits with 42 unless it completed."""
    from fedhft.errors import ErrorCode, FedhftError

    last: jobs_pb2.Job | None = None
    with options.client() as client:
        if options.format is OutputFormat.JSON:
            for last in client.watch(job, rounds or None):
                print_json(_as_dict(last), indent=None)
        else:
            from rich.console import Console

            from fedhft.reporting.table import RoundTable

            console = Console()
            with RoundTable(console, several=False) as table:
                for change in client.watch(job, rounds or None):
                    if last is None:
                        for line in _missing_rounds(change):
                            console.print(line, markup=False, highlight=False, soft_wrap=True)
                    last = change
                    table.show(job, last)
    if last is not None and last.status != "completed":
        raise FedhftError(ErrorCode.JOB_FAILED, f"job {job} ended as {last.status}: {last.reason}")


@app.command()
@with_server_options
def clusters(options: ServerOptions, job: JobArgument) -> None:
    """Show the latest memberships: every client's weights over the clusters."""
    from fedhft.jobs.messages import as_dict

    with options.client() as client:
        memberships = client.get(job, last=1).memberships
    if options.format is OutputFormat.JSON:
        print_json(as_dict(memberships))
        return
    heads = ("client", *(f"cluster-{cluster}" for cluster in range(memberships.clusters)))
    title = f"{job}: membership version {memberships.version}, after round {memberships.round}"
    print_table(heads, [(row.client, *row.weights) for row in memberships.rows], title)


@app.command()
@with_server_options
def clients(options: ServerOptions, job: JobArgument) -> None:
    """Show who serves a job, and who will not and why."""
    from fedhft.jobs.messages import as_dict

    with options.client() as client:
        listed = list(client.clients(job))
    told = [(one, _STATES.get(one.state, "unknown")) for one in listed]
    if options.format is OutputFormat.JSON:
        print_json({"job": job, "clients": [{**as_dict(one), "state": state} for one, state in told]})
        return
    rows = [
        (
            one.client,
            state,
            one.tier,
            one.samples,
            one.rounds_delivered,
            _ago(one.joined_seconds, one.HasField("joined_seconds")),
            _ago(one.seen_seconds, one.HasField("seen_seconds")),
            one.reason or _treated(one),
        )
        for one, state in told
    ]
    print_table(("client", "state", "tier", "samples", "rounds", "since", "last seen", "reason"), rows)


_STATES = {1: "live", 2: "silent", 3: "declined"}


def _treated(client: jobs_pb2.JobClient) -> str:
    """What the last fold made of its update, if anything."""
    if client.set_aside:
        return f"set aside: {client.set_aside}"
    return f"clipped to {client.clipped:.2f} of its size" if client.HasField("clipped") else ""


def _ago(seconds: float, known: bool) -> str:
    return f"{seconds:.0f} s ago" if known else ""


@app.command()
@with_server_options
def cancel(
    options: ServerOptions,
    job: JobArgument,
    reason: Annotated[str, typer.Option(help="Why; agents and watchers are told.")] = "cancelled from the command line",
) -> None:
    """End a job; agents are told at their next call."""
    with options.client() as client:
        _report(client.cancel(job, reason), options.format)


@app.command()
@with_server_options
def pause(
    options: ServerOptions,
    job: JobArgument,
    reason: Annotated[str, typer.Option(help="Why; watchers are told.")] = "paused from the command line",
) -> None:
    """Let a job wait: no round opens, closes or runs out of time until it is resumed."""
    with options.client() as client:
        _report(client.pause(job, reason), options.format)


@app.command()
@with_server_options
def resume(options: ServerOptions, job: JobArgument) -> None:
    """Let a paused job go on."""
    with options.client() as client:
        _report(client.resume(job), options.format)


@app.command()
@with_server_options
def delete(
    options: ServerOptions,
    job: JobArgument,
    force: Annotated[bool, typer.Option("--force", help="Even if it is not over.")] = False,
) -> None:
    """Delete everything the server keeps of a job that is over. Export its adapters first."""
    with options.client() as client:
        client.delete(job, force)
    if options.format is OutputFormat.JSON:
        print_json({"job": job, "deleted": True})
    else:
        typer.echo(f"{job}: deleted")


@app.command()
@with_server_options
def export(
    options: ServerOptions,
    job: JobArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for the PEFT directories.")],
    client: Annotated[
        list[str] | None, typer.Option("--client", help="Also export this client's mixture; repeatable.")
    ] = None,
    base_model: Annotated[
        str,
        typer.Option(
            "--base-model", help="What the adapters call their base model.", show_default="the job's name for it"
        ),
    ] = "",
) -> None:
    """Write the last version's adapters: one PEFT directory per cluster and per --client."""
    from fedhft.export.published import fetch_adapters, write_adapters

    with options.client() as jobs:
        adapters = fetch_adapters(jobs, job)
        written = write_adapters(adapters, out, jobs.get(job, last=1), base_model, client or ())
    if options.format is OutputFormat.JSON:
        print_json({"job": job, "version": adapters.state.version, "adapters": [str(path) for path in written]})
    else:
        for path in written:
            typer.echo(str(path))


@app.command()
def schema() -> None:
    """Print the JSON Schema of a job file."""
    from fedhft.job import job_schema

    print_json(job_schema())


def _as_dict(job: jobs_pb2.Job) -> dict[str, Any]:
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


def _standing(job: jobs_pb2.Job) -> tuple[str, str]:
    """Where a job stands, and why, for people."""
    if job.paused:
        return f"{job.status}, paused", job.paused
    if job.blocked:
        return f"{job.status}, blocked", job.blocked
    return job.status, job.reason


def _missing_rounds(job: jobs_pb2.Job) -> list[str]:
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


def _report(job: jobs_pb2.Job, format: OutputFormat, rounds: int = _SHOWN_ROUNDS) -> None:
    """Print a job; of its history people are shown the last `rounds` rounds (0: all), programs what the client has."""
    if format is OutputFormat.JSON:
        print_json(_as_dict(job))
        return
    from rich.console import Console

    from fedhft.reporting.table import RoundTable

    status, reason = _standing(job)
    typer.echo(f"{job.job}: {status}{f' ({reason})' if reason else ''}")
    if job.submitted_by:
        typer.echo(f"submitted by: {job.submitted_by}")
    typer.echo(f"schema: {'pinned at submission' if job.schema_pinned else 'as the first client to join has it'}")
    typer.echo(f"clients: {', '.join(job.clients) or 'none yet'}")
    if job.open_round:
        typer.echo(f"round {job.open_round} is open: {job.accepted} of {job.asked} clients done")
    if rounds:
        del job.history[:-rounds]
    for line in _missing_rounds(job):
        typer.echo(line)
    if job.history:
        table = RoundTable(Console(), several=False)
        table.take_in(job.job, job)
        table.print()
