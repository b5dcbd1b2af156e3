"""How a command reaches an aggregator and how it reports: options that many commands share, stated once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from fedhft.cli.config import complete_context
from fedhft.cli.contexts import VARIABLE, chosen_context
from fedhft.cli.output import Output, OutputOption

if TYPE_CHECKING:
    from fedhft.jobs.client import JobsClient
    from fedhft.rpc.tls import TlsSettings

P = ParamSpec("P")
DEFAULT_SERVER = "127.0.0.1:50053"


@dataclass(frozen=True)
class ServerOptions:
    """Every field is an option of every command `with_server_options`."""

    server: Annotated[
        str | None,
        typer.Option(
            envvar="FEDHFT_ADMIN_SERVER",
            metavar="HOST:PORT",
            help="The aggregator's address for people, its --admin-listen.",
            show_default=f"the context's, else {DEFAULT_SERVER}",
        ),
    ] = None
    tls_authority: Annotated[
        Path | None,
        typer.Option(envvar="FEDHFT_TLS_AUTHORITY", help="PEM of the authority that signed the server's certificate."),
    ] = None
    tls_certificate: Annotated[
        Path | None, typer.Option(envvar="FEDHFT_TLS_CERTIFICATE", help="PEM of your certificate.")
    ] = None
    tls_key: Annotated[Path | None, typer.Option(envvar="FEDHFT_TLS_KEY", help="PEM of your private key.")] = None
    context: Annotated[
        str | None,
        typer.Option(
            envvar=VARIABLE,
            help="What to take server and TLS files from where they are not given; see fedhft config.",
            show_default="the one in use",
            autocompletion=complete_context,
        ),
    ] = None
    output: OutputOption = Output.TABLE

    def client(self) -> JobsClient:
        """A client of the aggregator, to be closed. Raises FedhftError as `reach` does."""
        from fedhft.cli.waiting import Waiting
        from fedhft.jobs.client import JobsClient

        server, tls = self.reach()
        return JobsClient(server, tls, listener=Waiting(server))

    def reach(self) -> tuple[str, TlsSettings | None]:
        """The aggregator's address, host:port, and the files to show and to trust; None for plain text.

        Raises FedhftError(INVALID_ARGUMENT) for half a TLS pair, an address that is none, a context that is not known.
        """
        from fedhft.rpc.address import parse_address
        from fedhft.rpc.tls import TlsSettings

        chosen = chosen_context(self.context)
        server = self.server or chosen.admin_server or DEFAULT_SERVER
        parse_address(server, "--server")
        certificate = self.tls_certificate or _path(chosen.tls_certificate)
        key = self.tls_key or _path(chosen.tls_key)
        authority = self.tls_authority or _path(chosen.tls_authority)
        return server, TlsSettings(certificate, key, authority) if certificate or key or authority else None


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


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
