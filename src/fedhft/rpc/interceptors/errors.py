"""Turns refusals into statuses and counts them; of unexpected errors only a number is sent, the log has the rest."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from fedhft.errors import ErrorCode, FedhftError
from fedhft.rpc.interceptors.around import AroundInterceptor
from fedhft.rpc.status import abort
from fedhft.telemetry import metrics

logger = logging.getLogger(__name__)


class ErrorsInterceptor(AroundInterceptor):
    """Lets handlers just raise FedhftError."""

    @asynccontextmanager
    async def around(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        """Translate what the handler raises. A status that it set itself, by `context.abort`, stays."""
        try:
            yield
        except FedhftError as error:
            metrics.REFUSALS.labels(code=error.code.value).inc()
            logger.info("refused", extra={"method": method, "code": error.code.value, "detail": error.message})
            await abort(context, error)
        except grpc.aio.AbortError:
            raise
        except Exception:
            incident = secrets.token_hex(4)
            metrics.REFUSALS.labels(code=ErrorCode.INTERNAL.value).inc()
            logger.exception("unforeseen error", extra={"method": method, "incident": incident})
            text = f"internal error {incident}; the server's log has the details under this number"
            await abort(context, FedhftError(ErrorCode.INTERNAL, text))
