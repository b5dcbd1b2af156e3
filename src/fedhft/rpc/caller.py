"""Who makes a call. Every handler of every service asks here, once, before it does anything else.

With TLS a caller *is* what its certificate says: the server's `CallersInterceptor` reads it before the handler runs,
and refuses whoever may not call the method. Without, a caller is an address, and an agent is whoever holds the lease of
the client it names.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc.aio

from fedhft.errors import ErrorCode, FedhftError
from fedhft.identity import Identity, Role
from fedhft.ids import ClientId, JobId, parse_client_id
from fedhft.readings import Poll
from fedhft.records import AgentRecord

Context = grpc.aio.ServicerContext[Any, Any]


class Claim(Protocol):
    """What every request of an agent carries: whose agent it says it is, and the token that proves it."""

    @property
    def client(self) -> str:
        """Client id."""

    @property
    def lease_token(self) -> str:
        """Token of its Enroll."""


class Leases(Protocol):
    """Where leases are kept: the store."""

    async def check_lease(self, client: ClientId, lease_token: str) -> AgentRecord:
        """Raises NOT_ENROLLED, LEASE_SUPERSEDED."""
        ...

    async def poll(self, job: JobId, client: ClientId, lease_token: str) -> Poll:
        """Raises NOT_ENROLLED, LEASE_SUPERSEDED."""
        ...


def _trusted() -> None:
    """A caller without a certificate has none that could lose its value."""


@dataclass(frozen=True)
class Caller:
    """The other end of a call."""

    peer: str
    """Its address as gRPC has it, e.g. ipv4:127.0.0.1:40302."""
    identity: Identity | None = None
    """Of its certificate; None on a server that asks for none."""
    serial: str = ""
    """Serial number of its certificate, hexadecimal."""
    recheck: Callable[[], None] = field(default=_trusted, repr=False, compare=False)
    """Raises what a new call of this caller would be refused with now; for handlers that go on for long."""

    @property
    def name(self) -> str:
        """For logs: its identity (`operator/alice`), or its address where it has none."""
        return self.identity.path if self.identity is not None else self.peer

    @property
    def operator(self) -> str:
        """Name of the operator that its certificate is for; empty for others, and without a certificate."""
        return self.identity.name if self.identity is not None and self.identity.role is Role.OPERATOR else ""

    def client(self, claimed: str) -> ClientId:
        """The client this caller says it is.

        Raises INVALID_ARGUMENT for what is not an id, IDENTITY_MISMATCH when the certificate is another's.
        """
        client = parse_client_id(claimed)
        if self.identity is not None and self.identity.name != client:
            raise FedhftError.field(
                ErrorCode.IDENTITY_MISMATCH, "client", client, f"the certificate is {self.identity.uri}",
                f"run the agent as client {self.identity.name}, or give it the certificate of {client}",
            )  # fmt: skip
        return client

    async def agent(self, claim: Claim, leases: Leases) -> AgentRecord:
        """The enrolled agent behind this call, which counts as a sign of life.

        Raises INVALID_ARGUMENT, IDENTITY_MISMATCH, NOT_ENROLLED, LEASE_SUPERSEDED.
        """
        return await leases.check_lease(self.client(claim.client), claim.lease_token)

    async def poll(self, claim: Claim, job: JobId, leases: Leases) -> Poll:
        """The enrolled agent behind this call and its job as it stands, in one step; a sign of life in that job.

        Raises INVALID_ARGUMENT, NOT_ENROLLED, LEASE_SUPERSEDED.
        """
        return await leases.poll(job, self.client(claim.client), claim.lease_token)


_CURRENT: ContextVar[Caller] = ContextVar("caller")
"""Of the call that this task serves: gRPC serves every call in a task of its own."""


def announce_caller(caller: Caller) -> None:
    """Say who makes the call that this task serves; for the interceptor."""
    _CURRENT.set(caller)


def authenticate(context: Context) -> Caller:
    """Who is calling, as the server's interceptor found out."""
    return _CURRENT.get()
