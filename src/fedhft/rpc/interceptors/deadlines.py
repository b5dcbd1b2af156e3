"""Bounds every served call by the server's own limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from fedhft.rpc.bounded import WATCH_SECONDS, WATCHES
from fedhft.rpc.interceptors.around import AroundInterceptor

HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
"""By definition open for as long as the watcher lives."""


class DeadlinesInterceptor(AroundInterceptor):
    """Ends every call after `longest_s` with DEADLINE_EXCEEDED, whatever deadline its client set.

    gRPC ends those that run past their own. Watches are meant to stay open and last up to WATCH_SECONDS. A handler's
    own TimeoutError is not touched.
    """

    def __init__(self, longest_s: float, exempt: Collection[str] = (HEALTH_WATCH,)) -> None:
        self._longest_s = longest_s
        self._exempt = frozenset(exempt)

    @asynccontextmanager
    async def around(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        """Bound the call."""
        longest_s = WATCH_SECONDS if method in WATCHES else self._longest_s
        left_s = context.time_remaining()
        if method in self._exempt or (left_s is not None and left_s <= longest_s):
            yield
            return
        limit = asyncio.timeout(longest_s)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"the call took longer than {longest_s:g} s, which is as long as this server serves one; call again",
            )
