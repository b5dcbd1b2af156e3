"""`fedhft job export`: a version's adapters as PEFT directories."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhft.cli.completion import JobArgument, complete_client_of_job
from fedhft.cli.interrupted import if_interrupted
from fedhft.cli.output import answer
from fedhft.cli.server_options import ServerOptions, with_server_options
from fedhft.errors import ErrorCode, FedhftError

if TYPE_CHECKING:
    from fedhft.v1 import jobs_pb2

_LONGEST_NUMBER = 19


class View(StrEnum):
    """What `export --view` takes."""

    CLUSTERS = "clusters"
    MASS_WEIGHTED = "mass-weighted"


@with_server_options
def export(
    options: ServerOptions,
    job: JobArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for the PEFT directories.")],
    version: Annotated[
        str,
        typer.Option(
            help="Version to export: one of the last two, 0 for the last, or best (see `fedhft job get`).",
            show_default="the last",
        ),
    ] = "0",
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
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            "--push-to-hub",
            metavar="REPO",
            help="Also put them into this repository of the Hugging Face hub, made private where there is none.",
            show_default="nowhere",
        ),
    ] = None,
) -> None:
    """Write a version's adapters: one PEFT directory per cluster (or one for everybody) and per --client."""
    from dataclasses import asdict

    from fedhft.export.published import fetch_adapters, write_adapters

    with options.client() as jobs, if_interrupted(f"what was written so far is in {out}; export again for the rest"):
        told = jobs.get(job, last=1)
        adapters = fetch_adapters(jobs, job, version_of(told, version))
        everybody = view is View.MASS_WEIGHTED
        rows = {one.client: int(one.samples) for one in jobs.clients(job) if one.samples} if everybody else None
        written = write_adapters(
            adapters,
            out,
            told,
            base_model,
            client or (),
            base_path="" if base_path is None else str(base_path),
            check=check,
            merge=merge,
            samples=rows,
        )
    paths = [str(one.path) for one in written]
    pushed = None
    if push_to_hub is not None:
        from fedhft.export.hub import push_to_hub as push

        if check is not False and any(one.checked is None for one in written):
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "--push-to-hub", push_to_hub,
                f"{written[0].path.name} was not compared with what was trained: {written[0].unchecked}",
                "give what is missing, or --no-check",
            )  # fmt: skip
        pushed = push([one.path for one in written], push_to_hub, f"{job} version {adapters.state.version}")
    value = {
        "job": job,
        "version": adapters.state.version,
        "adapters": paths,
        "pushed_to": pushed,
        "checked": [None if one.checked is None else asdict(one.checked) for one in written],
    }

    def table() -> None:
        for path in paths:
            typer.echo(path)
        if pushed is not None:
            typer.echo(pushed)

    answer(options.output, value, paths, table)
    unchecked = next((one.unchecked for one in written if one.checked is None), "")
    if unchecked and check is None:
        typer.echo(f"not compared with what was trained: {unchecked}", err=True)


def version_of(job: jobs_pb2.Job, chosen: str) -> int:
    """The number of the version that a person asks for; 0: the last.

    Raises typer.BadParameter for what is not a version, FedhftError(JOB_NOT_RUNNING) where no version is the best yet.
    """
    if chosen.isdecimal() and len(chosen) < _LONGEST_NUMBER:
        return int(chosen)
    if chosen != "best":
        raise typer.BadParameter(f"{chosen!r} is not a version; give a number, or best", param_hint="--version")
    if not job.HasField("best"):
        raise FedhftError(
            ErrorCode.JOB_NOT_RUNNING, f"job {job.job}: no version was scored yet; wait for a round that is"
        )
    if not job.best.version:
        raise FedhftError(
            ErrorCode.JOB_NOT_RUNNING,
            f"job {job.job}: the best version is 0, the start ({job.best.by} {job.best.score:.4g}), which has no "
            "adapters; export a version by its number",
        )
    return job.best.version
