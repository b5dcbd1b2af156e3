"""Who makes a call. Every handler of every service asks here, once, before it does anything else.

Today a caller is an address, and an agent is whoever holds the lease of the client it names. Identity by certificate,
roles and quotas belong here too, so that they hold for every handler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import grpc.aio

from fedhft.ids import ClientId, JobId, parse_client_id
from fedhft.records import AgentRecord, Poll

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


@dataclass(frozen=True)
class Caller:
    """The other end of a call."""

    peer: str
    """Its address as gRPC has it, e.g. ipv4:127.0.0.1:40302."""

    def client(self, claimed: str) -> ClientId:
        """The client this caller says it is. Raises INVALID_ARGUMENT for what is not an id."""
        return parse_client_id(claimed)

    async def agent(self, claim: Claim, leases: Leases) -> AgentRecord:
        """The enrolled agent behind this call, which counts as a sign of life.

        Raises INVALID_ARGUMENT, NOT_ENROLLED, LEASE_SUPERSEDED.
        """
        return await leases.check_lease(self.client(claim.client), claim.lease_token)

    async def poll(self, claim: Claim, job: JobId, leases: Leases) -> Poll:
        """The enrolled agent behind this call and its job as it stands, in one step; a sign of life in that job.

        Raises INVALID_ARGUMENT, NOT_ENROLLED, LEASE_SUPERSEDED.
        """
        return await leases.poll(job, self.client(claim.client), claim.lease_token)


def authenticate(context: Context) -> Caller:
    """Who is calling."""
    return Caller(context.peer())
