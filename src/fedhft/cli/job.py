"""`fedhft job ...`: submitting and watching jobs on an aggregator."""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedhft.cli.completion import JobArgument
from fedhft.cli.following import check_completed, follow_events, follow_job, show_job
from fedhft.cli.interrupted import if_interrupted
from fedhft.cli.job_export import export
from fedhft.cli.job_plan import plan
from fedhft.cli.job_views import (
    SHOWN_ROUNDS,
    STATES,
    as_values,
    matches,
    print_clients,
    print_events,
    print_jobs,
    print_memberships,
)
from fedhft.cli.output import Output, answer, print_json
from fedhft.cli.server_options import ServerOptions, with_server_options
from fedhft.rounds.paging import HISTORY_PAGE

app = typer.Typer(help="Submit and watch jobs on an aggregator.", no_args_is_help=True)

_LISTED = (
    "job", "status", "reason", "paused", "blocked", "rounds_done", "clients", "open_round", "accepted", "asked",
    "age_seconds", "best",
)  # fmt: skip
"""Fields of a job that `list` shows to programs."""


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
    origin: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Warm start: a PEFT directory (needs --model), or JOB@VERSION of this server.",
            show_default="adapter.from of the job",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the job until it ends; exits with 42 unless it completed.")
    ] = False,
) -> None:
    """Check a job file and store the job. Submitting the identical job again is fine."""
    from fedhft.job import read_job

    spec, schema = read_job(file), None
    if origin is not None:
        spec = spec.model_copy(update={"adapter": spec.adapter.model_copy(update={"origin": origin})})
    if model is not None:
        from fedhft.training.base import load_base
        from fedhft.training.schema import build_schema

        schema = build_schema(load_base(spec, model), spec)
    with options.client() as client:
        begun: list[bytes] = []
        if spec.adapter.origin:
            from fedhft.export.warm_start import warm_start

            schema, begun, left_out = warm_start(client, spec, schema, model or "")
            if left_out:
                typer.echo(f"{spec.adapter.origin}: {left_out}", err=True)
        unknown = f"whether the job was submitted is not known; `fedhft job get {spec.name}` tells"
        with if_interrupted(unknown):
            submitted = client.submit(spec, schema, begun)
        if not wait:
            show_job(submitted, options.output)
            return
        with if_interrupted(f"the job is submitted; watch it with `fedhft job watch {spec.name}`"):
            if options.output is Output.TABLE:
                typer.echo(f"{spec.name}: submitted")
                last = follow_job(client, spec.name, SHOWN_ROUNDS)
            else:
                last = next(iter(deque(client.watch(spec.name, SHOWN_ROUNDS), maxlen=1)), None)
        if options.output is not Output.TABLE and last is not None:
            show_job(last, options.output)
    check_completed(last)


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
        show_job(client.get(job, rounds or None), options.output, rounds)


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
    tracker: Annotated[
        list[str] | None,
        typer.Option(
            help="Also write every round that is kept to tensorboard=DIR or mlflow=URI; repeatable.",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Follow a job until it ends (-o json: an object per line and change). Exits with 42 unless it completed."""
    from fedhft.reporting.trackers.opened import tracking

    if tracker:
        rounds = 0
    with (
        options.client() as client,
        tracking(tracker or (), job) as trackers,
        if_interrupted(f"the job goes on; `fedhft job watch {job}` shows it again"),
    ):
        if options.output is Output.TABLE:
            last = follow_job(client, job, rounds, trackers.tell)
        else:
            last = None
            for last in client.watch(job, rounds or None):
                trackers.tell(last)
                if options.output is Output.JSON:
                    print_json(as_values(last), indent=None)
                elif options.output is Output.YAML:
                    typer.echo("---")
                    show_job(last, options.output)
            if last is not None and options.output is Output.NAME:
                typer.echo(job)
    check_completed(last)


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
        follow_events(options, job, last)
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
        show_job(client.cancel(job, reason), options.output)


@app.command()
@with_server_options
def pause(
    options: ServerOptions,
    job: JobArgument,
    reason: Annotated[str, typer.Option(help="Why; watchers are told.")] = "paused from the command line",
) -> None:
    """Let a job wait: no round opens, closes or runs out of time until it is resumed."""
    with options.client() as client, _unknown_outcome(job):
        show_job(client.pause(job, reason), options.output)


@app.command()
@with_server_options
def resume(options: ServerOptions, job: JobArgument) -> None:
    """Let a paused job go on."""
    with options.client() as client, _unknown_outcome(job):
        show_job(client.resume(job), options.output)


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


app.command()(export)
app.command()(plan)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a job file."""
    from fedhft.job import job_schema

    print_json(job_schema())


def _unknown_outcome(job: str) -> if_interrupted:
    return if_interrupted(f"whether it was done is not known; `fedhft job get {job}` tells")
