"""How a command reaches an aggregator and how it reports: options that many commands share, stated once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from fedhft.cli.output import FormatOption, OutputFormat

if TYPE_CHECKING:
    from fedhft.jobs.client import JobsClient

P = ParamSpec("P")


@dataclass(frozen=True)
class ServerOptions:
    """Every field is an option of every command `with_server_options`."""

    server: Annotated[
        str,
        typer.Option(
            envvar="FEDHFT_ADMIN_SERVER",
            metavar="HOST:PORT",
            help="The aggregator's address for people, its --admin-listen.",
        ),
    ] = "127.0.0.1:50053"
    tls_authority: Annotated[
        Path | None,
        typer.Option(envvar="FEDHFT_TLS_AUTHORITY", help="PEM of the authority that signed the server's certificate."),
    ] = None
    tls_certificate: Annotated[
        Path | None, typer.Option(envvar="FEDHFT_TLS_CERTIFICATE", help="PEM of your certificate.")
    ] = None
    tls_key: Annotated[Path | None, typer.Option(envvar="FEDHFT_TLS_KEY", help="PEM of your private key.")] = None
    format: FormatOption = OutputFormat.TABLE

    def client(self) -> JobsClient:
        """A client of the aggregator, to be closed. Raises FedhftError(INVALID_ARGUMENT) for half a TLS pair."""
        from fedhft.jobs.client import JobsClient
        from fedhft.rpc.address import parse_address
        from fedhft.rpc.tls import TlsSettings

        parse_address(self.server, "--server")
        given = (self.tls_certificate, self.tls_key, self.tls_authority)
        return JobsClient(self.server, TlsSettings(*given) if any(given) else None)


def with_server_options(command: Callable[Concatenate[ServerOptions, P], None]) -> Callable[..., None]:
    """Add `ServerOptions` to a command, after its own; the command gets them as its first argument.

    Options of the group (`fedhft job --server X get NAME`) would be simpler for Typer, but people write them after the
    subcommand, and its help must show them.
    """
    shared = inspect.signature(ServerOptions, eval_str=True).parameters
    _, *own = inspect.signature(command, eval_str=True).parameters.values()

    @functools.wraps(command)
    def run(**given: Any) -> None:
        options = ServerOptions(**{name: given.pop(name) for name in shared})
        command(options, **given)  # type: ignore[call-arg]

    parameters = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in (*own, *shared.values())]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in parameters}
    return run
