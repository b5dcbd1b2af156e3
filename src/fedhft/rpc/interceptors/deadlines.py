"""Bounds every served call: one without a deadline gets the server's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from fedhft.rpc.interceptors.around import AroundInterceptor

HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
"""By definition open for as long as the watcher lives."""


class DeadlinesInterceptor(AroundInterceptor):
    """Ends calls without a deadline of their own after `longest_s` with DEADLINE_EXCEEDED.

    gRPC ends the others itself. A handler's own TimeoutError is not touched.
    """

    def __init__(self, longest_s: float, exempt: Collection[str] = (HEALTH_WATCH,)) -> None:
        self._longest_s = longest_s
        self._exempt = frozenset(exempt)

    @asynccontextmanager
    async def around(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        """Bound the call."""
        if method in self._exempt or context.time_remaining() is not None:
            yield
            return
        limit = asyncio.timeout(self._longest_s)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"the call had no deadline and took longer than {self._longest_s:g} s; set a deadline",
            )
