"""`fedhft job ...`: submitting and watching jobs on an aggregator."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhft.cli.completion import complete_client_of_job, complete_job
from fedhft.cli.interrupted import if_interrupted
from fedhft.cli.job_views import (
    SHOWN_ROUNDS,
    STATES,
    View,
    as_values,
    event_lines,
    matches,
    missing_rounds,
    print_clients,
    print_events,
    print_job,
    print_jobs,
    print_memberships,
)
from fedhft.cli.output import Output, answer, console, print_json
from fedhft.cli.server_options import ServerOptions, with_server_options
from fedhft.rounds.paging import HISTORY_PAGE

if TYPE_CHECKING:
    from fedhft.jobs.client import JobsClient
    from fedhft.v1 import jobs_pb2

app = typer.Typer(help="Submit and watch jobs on an aggregator.", no_args_is_help=True)

_LISTED = (
    "job", "status", "reason", "paused", "blocked", "rounds_done", "clients", "open_round", "accepted", "asked",
    "age_seconds",
)  # fmt: skip
"""Fields of a job that `list` shows to programs."""

JobArgument = Annotated[str, typer.Argument(help="Name of the job.", autocompletion=complete_job)]


class State(StrEnum):
    """What `list --status` takes: the statuses of a job, and what can hold one up."""

    WAITING = "waiting"
    RUNNING = "running"
    EVALUATING = "evaluating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    BLOCKED = "blocked"


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
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the job until it ends; exits with 42 unless it completed.")
    ] = False,
) -> None:
    """Check a job file and store the job. Submitting the identical job again is fine."""
    from fedhft.job import read_job

    spec, schema = read_job(file), None
    if model is not None:
        from fedhft.training.base import load_base
        from fedhft.training.schema import build_schema

        schema = build_schema(load_base(spec, model), spec)
    with options.client() as client:
        unknown = f"whether the job was submitted is not known; `fedhft job get {spec.name}` tells"
        with if_interrupted(unknown):
            submitted = client.submit(spec, schema)
        if not wait:
            _show(submitted, options.output)
            return
        with if_interrupted(f"the job is submitted; watch it with `fedhft job watch {spec.name}`"):
            if options.output is Output.TABLE:
                typer.echo(f"{spec.name}: submitted")
            last = _follow(client, spec.name, SHOWN_ROUNDS, options.output is Output.TABLE)
        if options.output is not Output.TABLE and last is not None:
            _show(last, options.output)
    _check_completed(last)


@app.command("list")
@with_server_options
def list_jobs(
    options: ServerOptions,
    status: Annotated[
        list[State] | None,
        typer.Option(help="Only jobs in this state; repeatable.", show_default="all"),
    ] = None,
) -> None:
    """List jobs, oldest first."""
    with options.client() as client:
        jobs = [job for job in client.list() if matches(job, [state.value for state in status or ()])]
    value = {"jobs": [{key: full[key] for key in _LISTED} for full in map(as_values, jobs)]}
    none = "no jobs in this state" if status else "no jobs yet; `fedhft job submit FILE` submits one"
    answer(options.output, value, [job.job for job in jobs], lambda: print_jobs(jobs) if jobs else typer.echo(none))


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
            show_default=f"{SHOWN_ROUNDS}; all with json and yaml",
        ),
    ] = None,
) -> None:
    """Show one job: where it stands, its last rounds, its scores."""
    if rounds is None:
        rounds = SHOWN_ROUNDS if options.output is Output.TABLE else 0
    with options.client() as client:
        _show(client.get(job, rounds or None), options.output, rounds)


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
    ] = SHOWN_ROUNDS,
) -> None:
    """Follow a job until it ends (-o json: an object per line and change). Exits with 42 unless it completed."""
    with options.client() as client, if_interrupted(f"the job goes on; `fedhft job watch {job}` shows it again"):
        if options.output is Output.TABLE:
            last = _follow(client, job, rounds, show=True)
        else:
            last = None
            for last in client.watch(job, rounds or None):
                if options.output is Output.JSON:
                    print_json(as_values(last), indent=None)
                elif options.output is Output.YAML:
                    typer.echo("---")
                    _show(last, options.output)
            if last is not None and options.output is Output.NAME:
                typer.echo(job)
    _check_completed(last)


@app.command()
@with_server_options
def events(
    options: ServerOptions,
    job: JobArgument,
    last: Annotated[int, typer.Option(min=0, help="How many of the newest events to show; 0: all that are kept.")] = 50,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            "-f",
            help="Go on with what happens until the job ends (-o json: an object per line and event); exits with 42 "
            "unless it completed.",
        ),
    ] = False,
) -> None:
    """Show what happened to a job and its clients: rounds, pauses, what blocked it, who came, left or declined."""
    from fedhft.jobs.messages import as_dict

    if follow:
        _follow_events(options, job, last)
        return
    with options.client() as client:
        told = client.events(job, last)
    value = {"job": job, **as_dict(told)}
    answer(options.output, value, [event.kind for event in told.events], lambda: print_events(told))


@app.command()
@with_server_options
def clusters(options: ServerOptions, job: JobArgument) -> None:
    """Show the latest memberships: every client's weights over the clusters, how sure they are and why."""
    from fedhft.jobs.cluster_reason import reason
    from fedhft.jobs.messages import as_dict

    with options.client() as client:
        memberships = client.get(job, last=1).memberships
    names = [row.client for row in memberships.rows]
    value = {**as_dict(memberships), "reason": reason(memberships)}
    answer(options.output, value, names, lambda: print_memberships(job, memberships))


@app.command()
@with_server_options
def clients(options: ServerOptions, job: JobArgument) -> None:
    """Show who serves a job, and who will not and why."""
    from fedhft.jobs.messages import as_dict

    with options.client() as client:
        listed = list(client.clients(job))
    told = [{**as_dict(one), "state": STATES.get(one.state, "unknown")} for one in listed]
    names = [one.client for one in listed]
    answer(options.output, {"job": job, "clients": told}, names, lambda: print_clients(listed))


@app.command()
@with_server_options
def cancel(
    options: ServerOptions,
    job: JobArgument,
    reason: Annotated[str, typer.Option(help="Why; agents and watchers are told.")] = "cancelled from the command line",
) -> None:
    """End a job; agents are told at their next call."""
    with options.client() as client, _unknown_outcome(job):
        _show(client.cancel(job, reason), options.output)


@app.command()
@with_server_options
def pause(
    options: ServerOptions,
    job: JobArgument,
    reason: Annotated[str, typer.Option(help="Why; watchers are told.")] = "paused from the command line",
) -> None:
    """Let a job wait: no round opens, closes or runs out of time until it is resumed."""
    with options.client() as client, _unknown_outcome(job):
        _show(client.pause(job, reason), options.output)


@app.command()
@with_server_options
def resume(options: ServerOptions, job: JobArgument) -> None:
    """Let a paused job go on."""
    with options.client() as client, _unknown_outcome(job):
        _show(client.resume(job), options.output)


@app.command()
@with_server_options
def delete(
    options: ServerOptions,
    job: JobArgument,
    force: Annotated[bool, typer.Option("--force", help="Even if it is not over.")] = False,
) -> None:
    """Delete everything the server keeps of a job that is over. Export its adapters first."""
    with options.client() as client, if_interrupted(f"parts may be left; `fedhft job delete {job}` goes on with it"):
        client.delete(job, force)
    answer(options.output, {"job": job, "deleted": True}, [job], lambda: typer.echo(f"{job}: deleted"))


@app.command()
@with_server_options
def export(
    options: ServerOptions,
    job: JobArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for the PEFT directories.")],
    version: Annotated[
        int, typer.Option(min=0, help="Version to export, one of the last two; 0: the last.", show_default="the last")
    ] = 0,
    client: Annotated[
        list[str] | None,
        typer.Option(
            "--client", help="Also export this client's mixture; repeatable.", autocompletion=complete_client_of_job
        ),
    ] = None,
    base_model: Annotated[
        str,
        typer.Option(
            "--base-model",
            help="What the adapters call their base model.",
            show_default="the job's name for it",
        ),
    ] = "",
    base_path: Annotated[
        Path | None,
        typer.Option(
            "--base-path",
            help="Folder of the base model on this machine, to check or to merge.",
            show_default="what the adapters call it",
        ),
    ] = None,
    check: Annotated[
        bool | None,
        typer.Option(
            "--check/--no-check",
            help="Load every directory with plain transformers and PEFT and compare it with what was trained.",
            show_default="where torch and the base model are",
        ),
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Write whole models, base and adapter in one.")] = False,
    view: Annotated[
        View,
        typer.Option("--view", help="One directory per cluster, or a single one for everybody, weighted by rows."),
    ] = View.CLUSTERS,
) -> None:
    """Write a version's adapters: one PEFT directory per cluster (or one for everybody) and per --client."""
    from dataclasses import asdict

    from fedhft.export.published import fetch_adapters, write_adapters

    with options.client() as jobs, if_interrupted(f"what was written so far is in {out}; export again for the rest"):
        adapters = fetch_adapters(jobs, job, version)
        everybody = view is View.MASS_WEIGHTED
        rows = {one.client: int(one.samples) for one in jobs.clients(job) if one.samples} if everybody else None
        written = write_adapters(
            adapters,
            out,
            jobs.get(job, last=1),
            base_model,
            client or (),
            base_path="" if base_path is None else str(base_path),
            check=check,
            merge=merge,
            samples=rows,
        )
    paths = [str(one.path) for one in written]
    value = {
        "job": job,
        "version": adapters.state.version,
        "adapters": paths,
        "checked": [None if one.checked is None else asdict(one.checked) for one in written],
    }

    def table() -> None:
        for path in paths:
            typer.echo(path)

    answer(options.output, value, paths, table)
    unchecked = next((one.unchecked for one in written if one.checked is None), "")
    if unchecked and check is None:
        typer.echo(f"not compared with what was trained: {unchecked}", err=True)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a job file."""
    from fedhft.job import job_schema

    print_json(job_schema())


def _show(job: jobs_pb2.Job, output: Output, rounds: int = SHOWN_ROUNDS) -> None:
    """Print a job; of its history people are shown the last `rounds` rounds (0: all), programs what the client has."""
    answer(output, as_values(job), [job.job], lambda: print_job(job, rounds))


def _follow(client: JobsClient, job: str, rounds: int, show: bool) -> jobs_pb2.Job | None:
    """Watch a job until it ends, for people if `show`; returns it."""
    from fedhft.reporting.table import RoundTable

    last: jobs_pb2.Job | None = None
    if not show:
        for change in client.watch(job, rounds or None):
            last = change
        return last
    out = console()
    with RoundTable(out, several=False) as table:
        for change in client.watch(job, rounds or None):
            if last is None:
                for line in missing_rounds(change):
                    out.print(line, markup=False, highlight=False, soft_wrap=True)
            last = change
            table.show(job, last)
    return last


def _follow_events(options: ServerOptions, job: str, last: int) -> None:
    """Show events as they come until the job is over. Raises JOB_FAILED unless it completed."""
    from fedhft.jobs.events import follow_events
    from fedhft.jobs.messages import as_dict

    ended: jobs_pb2.Job | None = None
    show = event_lines()
    with options.client() as client, if_interrupted(f"the job goes on; `fedhft job events {job} --follow` shows it"):
        for news in follow_events(client, job, last):
            ended = news.job
            if news.gap:
                typer.echo(f"fedhft: some events of {job} are no longer kept and not shown", err=True)
            for event in news.events:
                if options.output is Output.TABLE:
                    show(event)
                elif options.output is Output.YAML:
                    typer.echo("---")
                    answer(options.output, as_dict(event), [], lambda: None)
                elif options.output is Output.JSON:
                    print_json(as_dict(event), indent=None)
                else:
                    typer.echo(event.kind)
    _check_completed(ended)


def _check_completed(last: jobs_pb2.Job | None) -> None:
    from fedhft.errors import ErrorCode, FedhftError

    if last is not None and last.status != "completed":
        raise FedhftError(ErrorCode.JOB_FAILED, f"job {last.job} ended as {last.status}: {last.reason}")


def _unknown_outcome(job: str) -> if_interrupted:
    return if_interrupted(f"whether it was done is not known; `fedhft job get {job}` tells")
