"""`fedhft client ...`: the clients that a server knows, across its jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from fedhft.cli.completion import complete_client
from fedhft.cli.interrupted import if_interrupted
from fedhft.cli.output import Column, ago, answer, print_table
from fedhft.cli.server_options import ServerOptions, with_server_options

app = typer.Typer(help="List the clients of a federation, and take one out.", no_args_is_help=True)


@app.command("list")
@with_server_options
def list_clients(options: ServerOptions) -> None:
    """List every client that is enrolled or in a job that is not over."""
    from fedhft.jobs.messages import as_dict
    from fedhft.reporting.table import size

    with options.client() as client:
        known = list(client.known_clients())

    def table() -> None:
        columns = (
            Column("client"),
            Column("enrolled", 1),
            Column("last seen"),
            Column("memory", 3),
            Column("version", 4),
            Column("jobs", text=True),
        )
        rows = [
            (
                one.client,
                "yes" if one.enrolled else "no",
                f"{ago(one.seen_seconds)} ago" if one.HasField("seen_seconds") else "",
                size(one.memory_bytes) if one.memory_bytes else "not stated" if one.enrolled else "",
                one.agent_version,
                ", ".join(one.jobs),
            )
            for one in known
        ]
        print_table(columns, rows)

    answer(options.output, {"clients": [as_dict(one) for one in known]}, [one.client for one in known], table)


@app.command()
@with_server_options
def remove(
    options: ServerOptions,
    client: Annotated[str, typer.Argument(help="Name of the client.", autocompletion=complete_client)],
    reason: Annotated[str, typer.Option(help="Why; the events of its jobs show it.")] = "removed from the command line",
) -> None:
    """Take a client out of every job that is not over, and end its lease. An agent that still runs enrolls again.

    What the client delivered stays where it is. To keep it out, revoke its certificate: fedhft certs revoke.
    """
    with options.client() as jobs, if_interrupted(f"parts may be left; `fedhft client remove {client}` goes on"):
        left = jobs.remove_client(client, reason)

    def table() -> None:
        typer.echo(f"{client}: removed; it was in {', '.join(left) or 'no job'}")
        typer.echo(f"an agent that still runs comes back; `fedhft certs revoke agent/{client}` keeps it out", err=True)

    answer(options.output, {"client": client, "removed": True, "jobs": list(left)}, [client], table)
