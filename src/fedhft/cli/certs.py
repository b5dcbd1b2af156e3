"""`fedhft certs ...`: the certificates of a federation, issued by an authority of its own."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedhft.cli.contexts import VARIABLE
from fedhft.cli.output import Column, Output, OutputOption, answer, print_table
from fedhft.errors import ErrorCode, FedhftError

if TYPE_CHECKING:
    from fedhft.certs.authority import Authority
    from fedhft.certs.index import Entry

app = typer.Typer(help="Issue, renew and revoke certificates of a federation.", no_args_is_help=True)

DirOption = Annotated[
    Path,
    typer.Option("--dir", envvar="FEDHFT_CERTS_DIR", help="Folder of the authority; keep it private and backed up."),
]
NameArgument = Annotated[str, typer.Argument(help="agent/CLIENT, operator/NAME, aggregator or clusterer.")]
HostOption = Annotated[
    list[str] | None,
    typer.Option("--host", help="Name or address under which the server is reached; repeatable; servers only."),
]
DaysOption = Annotated[int, typer.Option(help="Days that the certificate is valid.")]
_DIR = Path("certs")


@app.command()
def init(
    trust_domain: Annotated[str, typer.Argument(help="Name of the federation, e.g. clinics.example.")],
    directory: DirOption = _DIR,
    days: Annotated[int, typer.Option(help="Days that the authority is valid.")] = 3650,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make an authority: its key (which never leaves this machine) and its certificate. Repeating changes nothing."""
    _check_installed()
    from fedhft.certs.authority import Authority

    authority = Authority.init(directory, trust_domain, days)
    value = {"trust_domain": authority.trust_domain, "dir": str(directory)}
    words = f"authority of {authority.trust_domain} in {directory}, valid until {authority.not_after:%Y-%m-%d}"
    answer(output, value, [authority.trust_domain], lambda: typer.echo(words))


@app.command()
def issue(
    name: NameArgument,
    host: HostOption = None,
    days: DaysOption = 90,
    directory: DirOption = _DIR,
    output: OutputOption = Output.TABLE,
) -> None:
    """Issue a certificate: writes ca.crt, tls.crt and tls.key into the holder's folder. Repeating changes nothing."""
    authority = _authority(directory)
    entry = authority.issue(authority.identity(name), host or (), days)
    _report(authority, [entry], output)


@app.command()
def renew(
    name: NameArgument,
    host: HostOption = None,
    days: DaysOption = 90,
    directory: DirOption = _DIR,
    output: OutputOption = Output.TABLE,
) -> None:
    """Replace a holder's certificate and key, for the same identity. Running processes take the new files up."""
    authority = _authority(directory)
    entry = authority.renew(authority.identity(name), host or (), days)
    _report(authority, [entry], output)


@app.command("list")
def list_certificates(directory: DirOption = _DIR, output: OutputOption = Output.TABLE) -> None:
    """List every certificate issued: whose, until when, and whether it was revoked."""
    authority = _authority(directory)
    _report(authority, authority.index().entries, output)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="agent/CLIENT, operator/NAME, a service, or a serial number.")],
    reason: Annotated[str, typer.Option(help="Why; it is shown in the list and in the services' log.")] = "",
    server: Annotated[
        str | None,
        typer.Option(
            envvar="FEDHFT_ADMIN_SERVER",
            metavar="HOST:PORT",
            help="Tell this aggregator (its --admin-listen) too; until then only the index knows.",
        ),
    ] = None,
    tls_authority: Annotated[
        Path | None, typer.Option(envvar="FEDHFT_TLS_AUTHORITY", help="As for fedhft job: of the server's certificate.")
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(envvar="FEDHFT_TLS_CERTIFICATE", help="PEM of your certificate, an operator's.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar="FEDHFT_TLS_KEY", help="PEM of your private key.")] = None,
    context: Annotated[
        str | None, typer.Option(envvar=VARIABLE, help="As for fedhft job: where the TLS files are, if not given.")
    ] = None,
    directory: DirOption = _DIR,
    output: OutputOption = Output.TABLE,
) -> None:
    """Revoke a holder's certificates. With --server they are refused from their next call on. Repeating is fine."""
    authority = _authority(directory)
    entries = authority.revoke(name, reason)
    if server is not None:
        from fedhft.cli.server_options import ServerOptions

        options = ServerOptions(server, tls_authority, tls_certificate, tls_key, context)
        with options.client() as client:
            for entry in entries:
                until_ms = int(entry.not_after.timestamp() * 1000)
                client.revoke(entry.serial, entry.identity.uri, until_ms, entry.reason)
    _report(authority, entries, output)
    if server is None:
        typer.echo("no service was told: repeat with --server HOST:PORT, the aggregator's --admin-listen", err=True)


def _authority(directory: Path) -> Authority:
    _check_installed()
    from fedhft.certs.authority import Authority

    return Authority(directory)


def _report(authority: Authority, entries: Sequence[Entry], output: Output) -> None:
    now = datetime.now(UTC)
    rows = [_row(authority, entry, now) for entry in entries]
    value = {"trust_domain": authority.trust_domain, "certificates": rows}
    title = f"authority of {authority.trust_domain}, valid until {authority.not_after:%Y-%m-%d}"
    columns = (
        Column("name"),
        Column("state"),
        Column("expires", 2),
        Column("days left"),
        Column("serial", 4),
        Column("hosts", text=True),
        Column("reason", text=True),
    )
    keys = ("name", "state", "not_after", "days_left", "serial", "hosts", "reason")
    shown = [[_shown(key, row[key]) for key in keys] for row in rows]
    answer(output, value, [row["name"] for row in rows], lambda: print_table(columns, shown, title))


def _shown(key: str, value: Any) -> Any:
    if key == "hosts":
        return ", ".join(value)
    return value[:10] if key == "not_after" else value  # the day is enough for people


def _row(authority: Authority, entry: Entry, now: datetime) -> dict[str, Any]:
    return {
        "name": entry.identity.path,
        "identity": entry.identity.uri,
        "serial": entry.serial,
        "not_after": entry.not_after.isoformat(),
        "days_left": max(0, (entry.not_after - now).days),
        "state": entry.state(now),
        "hosts": list(entry.hosts),
        "reason": entry.reason,
        "dir": str(authority.holder(entry.identity).folder),
    }


def _check_installed() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise FedhftError(
            ErrorCode.INVALID_ARGUMENT,
            'fedhft certs needs cryptography, which is not installed; pip install "fedhft[certs]"',
        )
