"""A base class that surrounds a served call with a context manager, whatever the call's kind."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

if TYPE_CHECKING:
    ServerInterceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    ServerInterceptor = grpc.aio.ServerInterceptor
"""Generic in the stubs, not at run time."""

Enter = Callable[[Any], AbstractAsyncContextManager[None]]
"""From the call's context to what surrounds its handler."""


class AroundInterceptor(ABC):
    """Surrounds each call with `around` for its whole life, streams included."""

    @abstractmethod
    def around(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> AbstractAsyncContextManager[None]:
        """What is entered before the handler and left after its last message. `method` is /package.Service/Method."""


class Chain(ServerInterceptor):
    """All of a server's interceptors; the first is outermost.

    gRPC knows one interceptor only: it asks each of them anew at every call, while the wrapped handlers are always the
    same.
    """

    def __init__(self, interceptors: Sequence[AroundInterceptor]) -> None:
        self._interceptors = tuple(interceptors)
        self._known: dict[str, tuple[Any, grpc.RpcMethodHandler[Any, Any]]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Wrap the handler of a call, once per method. Unknown methods have none and stay unknown."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        inner, surrounded = self._known.get(method, (None, None))
        if surrounded is None or inner is not handler:
            surrounded = handler
            for interceptor in reversed(self._interceptors):
                surrounded = _surrounded(surrounded, method, partial(interceptor.around, method))
            self._known[method] = (handler, surrounded)
        return surrounded


def _surrounded(handler: Any, method: str, enter: Enter) -> grpc.RpcMethodHandler[Any, Any]:
    coders = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(_behaviour(handler.stream_stream, method, enter), **coders)
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(_behaviour(handler.stream_unary, method, enter), **coders)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(_behaviour(handler.unary_stream, method, enter), **coders)
    return grpc.unary_unary_rpc_method_handler(_behaviour(handler.unary_unary, method, enter), **coders)


def _behaviour(inner: Any, method: str, enter: Enter) -> Any:
    # The first argument is a request or an iterator of requests; it is passed on untouched either way.
    if inspect.isasyncgenfunction(inner):

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async with enter(context), aclosing(inner(request, context)) as responses:
                async for response in responses:
                    yield response

        return stream

    if not inspect.iscoroutinefunction(inner):
        raise TypeError(f"{method}: its handler is {inner!r}; fedhft's servers take async handlers only")

    async def answer(request: Any, context: Any) -> Any:
        async with enter(context):
            return await inner(request, context)

    return answer
