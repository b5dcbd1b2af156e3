"""A full server refuses calls at once instead of queueing them without bound."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from fedhft.errors import ErrorCode, FedhftError
from fedhft.rpc.interceptors.around import AroundInterceptor

_HEALTH = "/grpc.health.v1.Health/"


class AdmissionInterceptor(AroundInterceptor):
    """Refuses calls beyond `most` at a time with SERVER_UNAVAILABLE, which clients retry. Health is always answered."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._in_flight = 0

    @asynccontextmanager
    async def around(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        """Take one of the places for as long as the call lasts."""
        if method.startswith(_HEALTH):
            yield
            return
        if self._in_flight >= self._most:
            raise FedhftError(
                ErrorCode.SERVER_UNAVAILABLE,
                f"the server is already serving {self._most} calls; try again later",
            )
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
