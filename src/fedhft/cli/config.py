"""`fedhft config ...`: contexts, so that nobody types addresses and certificates every time."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fedhft.cli.contexts import (
    VARIABLE,
    Context,
    checked,
    config_file,
    read_contexts,
    write_contexts,
)
from fedhft.cli.output import Column, Output, OutputOption, answer, print_table
from fedhft.errors import ErrorCode, FedhftError

app = typer.Typer(help="Name the federations that you talk to, and choose one.", no_args_is_help=True)


def complete_context(incomplete: str) -> list[str]:
    """Names of contexts that begin so, for the shell."""
    try:
        return [name for name in read_contexts().known if name.startswith(incomplete)]
    except FedhftError:
        return []


NameArgument = Annotated[str, typer.Argument(help="Name of the context.", autocompletion=complete_context)]


@app.command("list")
def list_contexts(output: OutputOption = Output.TABLE) -> None:
    """List your contexts; the one in use is marked."""
    contexts = read_contexts()
    value = {
        "file": str(config_file()),
        "current": contexts.current,
        "contexts": [{"name": name, **asdict(context)} for name, context in contexts.known.items()],
    }

    def table() -> None:
        if not contexts.known:
            typer.echo("no contexts yet; `fedhft config set NAME --admin-server HOST:PORT` adds one")
            return
        columns = (
            Column(""),
            Column("context"),
            Column("admin server"),
            Column("server", 2),
            Column("TLS files", 1, text=True),
        )
        rows = [
            (
                "*" if name == contexts.current else "",
                name,
                context.admin_server or "",
                context.server or "",
                context.tls_certificate or context.tls_authority or "",
            )
            for name, context in contexts.known.items()
        ]
        print_table(columns, rows)

    answer(output, value, contexts.known, table)


@app.command("set")
def set_context(
    name: NameArgument,
    admin_server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="What people call: the aggregator's --admin-listen.")
    ] = None,
    server: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="What agents call: its --listen.")] = None,
    tls_authority: Annotated[
        str | None, typer.Option(metavar="FILE", help="PEM of the authority that signed the server's certificate.")
    ] = None,
    tls_certificate: Annotated[str | None, typer.Option(metavar="FILE", help="PEM of your certificate.")] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="PEM of your private key.")] = None,
) -> None:
    """Add a context or change one; an empty value removes what was there. The first context is in use at once."""
    contexts = read_contexts()
    given = {
        "admin_server": admin_server,
        "server": server,
        "tls_authority": tls_authority,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
    }
    contexts = contexts.with_context(name, checked(contexts.known.get(name, Context()), given))
    path = write_contexts(contexts)
    typer.echo(f"{name}: written to {path}{', in use' if contexts.current == name else ''}")


@app.command()
def use(name: NameArgument) -> None:
    """Make a context the one in use."""
    write_contexts(read_contexts().using(name))
    typer.echo(f"{name}: in use")


@app.command()
def remove(name: NameArgument) -> None:
    """Forget a context. Its files stay."""
    write_contexts(read_contexts().without(name))
    typer.echo(f"{name}: removed")


@app.command()
def current(
    context: Annotated[str | None, typer.Option(envvar=VARIABLE, help="As for other commands.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the context that commands take now. Exits with 14 when there is none."""
    contexts = read_contexts()
    name = context or contexts.current
    if name is None:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "context", "", "none is in use", "choose one: `fedhft config use NAME`"
        )
    values = asdict(contexts.named(name))

    def table() -> None:
        typer.echo(f"context: {name}{'' if name == contexts.current else f' (from {VARIABLE} or --context)'}")
        for key, value in values.items():
            if value is not None:
                typer.echo(f"{key.replace('_', ' ')}: {value}")

    answer(output, {"name": name, **values}, [name], table)
