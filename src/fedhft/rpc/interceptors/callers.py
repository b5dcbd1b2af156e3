"""Finds out who calls, and refuses whoever may not: by role, by trust domain, by date, by deny list."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc.aio

from fedhft.rpc.caller import Caller, announce_caller
from fedhft.rpc.interceptors.around import AroundInterceptor
from fedhft.rpc.peer import PeerCertificate, PeerCertificates, check_trusted
from fedhft.rpc.roles import check_role, is_open

Check = Callable[[PeerCertificate], None]
"""Raises FedhftError for a certificate that is no longer to be trusted."""


class CallersInterceptor(AroundInterceptor):
    """On a server that asks for certificates, every call passes here before its handler can see it."""

    def __init__(self, trust_domain: str | None, check: Check | None = None) -> None:
        """`trust_domain` of the callers; None on a server that asks for no certificates: every caller may do all.

        `check` is asked at every call, also on connections that were opened before a certificate was revoked.
        """
        self._trust_domain = trust_domain
        self._check = check
        self._certificates = PeerCertificates()

    @asynccontextmanager
    async def around(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        """Establish the caller, or refuse the call."""
        if self._trust_domain is None or is_open(method):
            announce_caller(Caller(context.peer()))
        else:
            certificate = self._certificates.read(context.auth_context())
            check = partial(self._admit, method, certificate, self._trust_domain)
            check()
            announce_caller(Caller(context.peer(), certificate.identity, certificate.serial, recheck=check))
        yield

    def _admit(self, method: str, certificate: PeerCertificate, trust_domain: str) -> None:
        check_trusted(certificate, trust_domain)
        check_role(method, certificate.identity)
        if self._check is not None:
            self._check(certificate)
