"""What the Tab key offers of a server: names of jobs and clients. Asked for once, shortly; silent when it is away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedhft.cli.server_options import ServerOptions
from fedhft.errors import FedhftError

if TYPE_CHECKING:
    from fedhft.v1 import jobs_pb2_grpc

ASK_S = 0.7
"""How long a person who pressed Tab waits for a server, connecting included."""
_MOST = 1000
"""Most names that are offered; nobody looks through more."""

Offer = tuple[str, str]
"""A name, and a word on it for shells that show one."""


def complete_job(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Names of jobs that begin so, each with its status."""
    from fedhft.v1 import jobs_pb2

    def ask(stub: jobs_pb2_grpc.JobsStub) -> Iterable[Offer]:
        jobs = stub.List(jobs_pb2.ListJobsRequest(), timeout=ASK_S).jobs
        return ((job.job, job.status) for job in jobs)

    return _offered(ctx, incomplete, ask)


JobArgument = Annotated[str, typer.Argument(help="Name of the job.", autocompletion=complete_job)]
"""The argument of a command that is about one job."""


def complete_client(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Names of clients that the server knows and that begin so."""
    from fedhft.v1 import clients_pb2

    def ask(stub: jobs_pb2_grpc.JobsStub) -> Iterable[Offer]:
        page = stub.KnownClients(clients_pb2.ListKnownClientsRequest(limit=_MOST), timeout=ASK_S)
        return ((one.client, "enrolled" if one.enrolled else "not enrolled") for one in page.clients)

    return _offered(ctx, incomplete, ask)


def complete_client_of_job(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Names of clients of the job that was named, as far as they begin so."""
    from fedhft.v1 import clients_pb2

    def ask(stub: jobs_pb2_grpc.JobsStub) -> Iterable[Offer]:
        # An option that waits for its value keeps the parser from giving arguments their names.
        job = str(ctx.params.get("job") or next(iter(ctx.args), ""))
        page = stub.Clients(clients_pb2.ListClientsRequest(job=job, limit=_MOST), timeout=ASK_S)
        return ((one.client, one.tier) for one in page.clients)

    return _offered(ctx, incomplete, ask)


def _offered(
    ctx: typer.Context, incomplete: str, ask: Callable[[jobs_pb2_grpc.JobsStub], Iterable[Offer]]
) -> list[Offer]:
    """What the server offers; nothing where it cannot be asked: a line about that would be in the way of typing."""
    import grpc

    try:
        with _asked(ctx) as stub:
            return [offer for offer in ask(stub) if offer[0].startswith(incomplete)][:_MOST]
    except (FedhftError, grpc.RpcError):
        return []


@contextmanager
def _asked(ctx: typer.Context) -> Iterator[jobs_pb2_grpc.JobsStub]:
    """The server that the command under way would ask. Raises FedhftError for options that cannot work."""
    from fedhft.rpc.channel import ChannelSettings, open_channel
    from fedhft.v1 import jobs_pb2_grpc

    given: dict[str, Any] = {}
    for one in fields(ServerOptions):
        if ctx.params.get(one.name) is not None:  # texts, which Typer converts only for a command that runs
            given[one.name] = Path(ctx.params[one.name]) if one.name.startswith("tls_") else ctx.params[one.name]
    server, tls = ServerOptions(**given).reach()
    with open_channel(ChannelSettings(server, tls)) as channel:
        yield jobs_pb2_grpc.JobsStub(channel)
