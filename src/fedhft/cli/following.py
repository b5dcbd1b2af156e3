"""A job as it is shown, followed until it ends, and what its end means for the exit code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from fedhft.cli.interrupted import if_interrupted
from fedhft.cli.job_views import SHOWN_ROUNDS, as_values, event_lines, missing_rounds, print_job
from fedhft.cli.output import Output, answer, console, print_json
from fedhft.cli.server_options import ServerOptions

if TYPE_CHECKING:
    from fedhft.jobs.client import JobsClient
    from fedhft.v1 import jobs_pb2


def show_job(job: jobs_pb2.Job, output: Output, rounds: int = SHOWN_ROUNDS) -> None:
    """Print a job; of its history people are shown the last `rounds` rounds (0: all), programs what the client has."""
    answer(output, as_values(job), [job.job], lambda: print_job(job, rounds))


def follow_job(
    client: JobsClient,
    job: str,
    rounds: int,
    tell: Callable[[jobs_pb2.Job], None] = lambda job: None,
) -> jobs_pb2.Job | None:
    """Watch a job until it ends, for people; returns it. tell: is given every change."""
    from fedhft.reporting.table import RoundTable

    last: jobs_pb2.Job | None = None
    out = console()
    with RoundTable(out, several=False) as table:
        for change in client.watch(job, rounds or None):
            if last is None:
                for line in missing_rounds(change):
                    out.print(line, markup=False, highlight=False, soft_wrap=True)
            last = change
            tell(last)
            table.show(job, last)
    return last


def follow_events(options: ServerOptions, job: str, last: int) -> None:
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
    check_completed(ended)


def check_completed(last: jobs_pb2.Job | None) -> None:
    """Raises JOB_FAILED unless the job completed, if it ended."""
    from fedhft.errors import ErrorCode, FedhftError

    if last is not None and last.status != "completed":
        raise FedhftError(ErrorCode.JOB_FAILED, f"job {last.job} ended as {last.status}: {last.reason}")
