"""`fedhft job ...`: submitting and watching jobs on an aggregator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedhft.cli.output import FormatOption, OutputFormat, print_json, print_table

if TYPE_CHECKING:
    from fedhft.jobs.client import JobsClient
    from fedhft.v1 import jobs_pb2

app = typer.Typer(help="Submit and watch jobs on an aggregator.", no_args_is_help=True)

ServerOption = Annotated[
    str, typer.Option("--server", envvar="FEDHFT_SERVER", metavar="HOST:PORT", help="The aggregator.")
]
AuthorityOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-authority",
        envvar="FEDHFT_TLS_AUTHORITY",
        help="PEM of the authority that signed the server's certificate.",
    ),
]
CertificateOption = Annotated[
    Path | None, typer.Option("--tls-certificate", envvar="FEDHFT_TLS_CERTIFICATE", help="PEM of your certificate.")
]
KeyOption = Annotated[Path | None, typer.Option("--tls-key", envvar="FEDHFT_TLS_KEY", help="PEM of your private key.")]
JobArgument = Annotated[str, typer.Argument(help="Name of the job.")]

_SERVER = "127.0.0.1:50051"


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="Job file, TOML; `fedhft job schema` says what it may hold.")],
    server: ServerOption = _SERVER,
    tls_authority: AuthorityOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Check a job file and store the job. The identical job again is no error."""
    from fedhft.job import read_job

    spec = read_job(file)
    with _client(server, tls_authority, tls_certificate, tls_key) as client:
        _report(client.submit(spec), format)


@app.command("list")
def list_jobs(
    server: ServerOption = _SERVER,
    tls_authority: AuthorityOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """List every job, oldest first."""
    with _client(server, tls_authority, tls_certificate, tls_key) as client:
        jobs = client.list()
    if format is OutputFormat.JSON:
        keep = ("job", "status", "reason", "rounds_done", "clients", "open_round", "accepted", "asked")
        print_json({"jobs": [{key: full[key] for key in keep} for full in map(_as_dict, jobs)]})
    else:
        rows = [(job.job, job.status, job.rounds_done, len(job.clients), job.reason) for job in jobs]
        print_table(("job", "status", "rounds", "clients", "reason"), rows)


@app.command()
def get(
    job: JobArgument,
    server: ServerOption = _SERVER,
    tls_authority: AuthorityOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Show one job: where it stands, its rounds, its scores."""
    with _client(server, tls_authority, tls_certificate, tls_key) as client:
        _report(client.get(job), format)


@app.command()
def watch(
    job: JobArgument,
    server: ServerOption = _SERVER,
    tls_authority: AuthorityOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Follow a job until it ends (--format json: an object per line and change). Exits with 42 unless it completed."""
    from fedhft.errors import ErrorCode, FedhftError

    last: jobs_pb2.Job | None = None
    with _client(server, tls_authority, tls_certificate, tls_key) as client:
        if format is OutputFormat.JSON:
            for last in client.watch(job):
                print_json(_as_dict(last), indent=None)
        else:
            from rich.console import Console

            from fedhft.reporting.table import RoundTable

            with RoundTable(Console(), several=False) as table:
                for last in client.watch(job):
                    table.show(job, last)
    if last is not None and last.status != "completed":
        raise FedhftError(ErrorCode.JOB_FAILED, f"job {job} ended as {last.status}: {last.reason}")


@app.command()
def clusters(
    job: JobArgument,
    server: ServerOption = _SERVER,
    tls_authority: AuthorityOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Show the latest memberships: every client's weights over the clusters."""
    from fedhft.jobs.messages import as_dict

    with _client(server, tls_authority, tls_certificate, tls_key) as client:
        memberships = client.get(job).memberships
    if format is OutputFormat.JSON:
        print_json(as_dict(memberships))
        return
    heads = ("client", *(f"cluster-{cluster}" for cluster in range(memberships.clusters)))
    title = f"{job}: membership version {memberships.version}, after round {memberships.round}"
    print_table(heads, [(row.client, *row.weights) for row in memberships.rows], title)


@app.command()
def cancel(
    job: JobArgument,
    reason: Annotated[str, typer.Option(help="Why; agents and watchers are told.")] = "cancelled from the command line",
    server: ServerOption = _SERVER,
    tls_authority: AuthorityOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """End a job; agents are told at their next call."""
    with _client(server, tls_authority, tls_certificate, tls_key) as client:
        _report(client.cancel(job, reason), format)


@app.command()
def export(
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
    server: ServerOption = _SERVER,
    tls_authority: AuthorityOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Write the last version's adapters: one PEFT directory per cluster and per --client."""
    from fedhft.export.published import fetch_adapters, write_adapters

    with _client(server, tls_authority, tls_certificate, tls_key) as jobs:
        adapters = fetch_adapters(jobs, job)
        written = write_adapters(adapters, out, jobs.get(job), base_model, client or ())
    if format is OutputFormat.JSON:
        print_json({"job": job, "version": adapters.state.version, "adapters": [str(path) for path in written]})
    else:
        for path in written:
            typer.echo(str(path))


@app.command()
def schema() -> None:
    """Print the JSON Schema of a job file."""
    from fedhft.job import job_schema

    print_json(job_schema())


def _client(server: str, ca: Path | None, cert: Path | None, key: Path | None) -> JobsClient:
    from fedhft.jobs.client import JobsClient
    from fedhft.rpc.tls import TlsSettings

    tls = TlsSettings(certificate=cert, key=key, authority=ca) if ca or cert or key else None
    return JobsClient(server, tls)


def _as_dict(job: jobs_pb2.Job) -> dict[str, Any]:
    """A job for programs; its spec as an object."""
    import json

    from fedhft.jobs.messages import as_dict

    told = as_dict(job)
    text = told.pop("spec_json")
    return {**told, "spec": json.loads(text) if text else None}


def _report(job: jobs_pb2.Job, format: OutputFormat) -> None:
    if format is OutputFormat.JSON:
        print_json(_as_dict(job))
        return
    from rich.console import Console

    from fedhft.reporting.table import RoundTable

    typer.echo(f"{job.job}: {job.status}{f' ({job.reason})' if job.reason else ''}")
    typer.echo(f"clients: {', '.join(job.clients) or 'none yet'}")
    if job.open_round:
        typer.echo(f"round {job.open_round} is open: {job.accepted} of {job.asked} clients done")
    if job.history:
        table = RoundTable(Console(), several=False)
        table.take_in(job.job, job)
        table.print()
