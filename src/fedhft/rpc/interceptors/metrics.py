"""Latency by method and status, and calls in flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from fedhft.rpc.interceptors.around import AroundInterceptor
from fedhft.telemetry import metrics

_NAMES = {status.value[0]: status.name for status in grpc.StatusCode}


class MetricsInterceptor(AroundInterceptor):
    """Outermost, so that it sees the final status.

    Only methods the server knows get here, so the label has few values.
    """

    @asynccontextmanager
    async def around(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        """Time the call."""
        status = grpc.StatusCode.UNKNOWN.name
        started = time.perf_counter()
        metrics.RPCS_IN_FLIGHT.labels(method=method).inc()
        try:
            yield
            status = _status(context, grpc.StatusCode.OK)
        except (asyncio.CancelledError, GeneratorExit):
            status = grpc.StatusCode.CANCELLED.name
            raise
        except Exception:
            status = _status(context, grpc.StatusCode.UNKNOWN)
            raise
        finally:
            metrics.RPCS_IN_FLIGHT.labels(method=method).dec()
            metrics.RPC_SECONDS.labels(method=method, status=status).observe(time.perf_counter() - started)


def _status(context: Any, otherwise: grpc.StatusCode) -> str:
    code = context.code()  # a StatusCode or its number; 0 while nobody set it
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _NAMES.get(code, otherwise.name) if code else otherwise.name
