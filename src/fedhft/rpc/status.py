"""Translates refusals to gRPC statuses and back.

A refusal's code travels in the trailing metadata `fedhft-error-code`; the text for people is the status message.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
import grpc.aio

from fedhft.errors import ErrorCode, FedhftError
from fedhft.rpc.proxies import VARIABLES

ERROR_CODE_KEY = "fedhft-error-code"
"""Trailing metadata key that carries `ErrorCode`."""

MAX_MESSAGE_BYTES = 4096
"""Longest status message, encoded. Headers are limited to 8 KiB; past that the peer sees a transport error instead."""

_WITHOUT_CODE: dict[grpc.StatusCode, ErrorCode] = {
    grpc.StatusCode.UNAVAILABLE: ErrorCode.SERVER_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ErrorCode.SERVER_UNAVAILABLE,
    grpc.StatusCode.CANCELLED: ErrorCode.SERVER_UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorCode.SERVER_UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED: ErrorCode.PROTOCOL_VERSION,
    grpc.StatusCode.INVALID_ARGUMENT: ErrorCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED: ErrorCode.NOT_AUTHORISED,
    grpc.StatusCode.PERMISSION_DENIED: ErrorCode.NOT_AUTHORISED,
}
"""Statuses made by gRPC itself or a proxy, without our code. Any other is a defect."""

_BROKEN_CONNECTION = ("RST_STREAM", "Stream removed", "GOAWAY", "Socket closed", "Connection reset")
"""What gRPC says, under INTERNAL or UNKNOWN, when a connection broke or a proxy closed it."""

_HANDSHAKE = (
    "andshake failed",
    "SSL_ERROR",
    "certificate verify failed",
    "WRONG_VERSION_NUMBER",
    "Hostname Verification",
)
"""What gRPC says when it spoke TLS and the other side did not, or showed the wrong certificate."""

_UNREACHABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
"""Statuses of calls that may not have got to a server; so may those whose connection broke."""

_MESSAGE_TOO_LARGE = "larger than max"
"""What gRPC says of a message beyond its limit; a busy proxy or server refuses calls under the same status."""


class UnreachableError(FedhftError):
    """A call that, as far as gRPC can tell, did not get to a server or got no answer back."""


def status_of(error: FedhftError) -> grpc.StatusCode:
    """The gRPC status of a refusal."""
    return grpc.StatusCode[error.outcome.grpc_status]


def message_of(text: str) -> str:
    """The text, cut to fit a status message (which travels percent-encoded)."""
    if len(quote(text)) <= MAX_MESSAGE_BYTES:
        return text
    shortest, longest = 0, len(text)
    while shortest < longest:
        middle = (shortest + longest + 1) // 2
        if len(quote(text[:middle])) <= MAX_MESSAGE_BYTES - 3:
            shortest = middle
        else:
            longest = middle - 1
    return text[:shortest] + "..."


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: FedhftError) -> NoReturn:
    """End a call with a refusal. Handlers do not call this: they raise, and the errors interceptor does."""
    await context.abort(
        status_of(error), message_of(error.message), trailing_metadata=((ERROR_CODE_KEY, error.code.value),)
    )
    raise error  # abort never returns


def error_from_rpc(error: grpc.RpcError) -> FedhftError:
    """The error of a failed call, from a blocking or an asyncio stub.

    A refusal by the server comes back as it was raised there. A server that is away, slow or stopping
    (UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED, a broken connection) is SERVER_UNAVAILABLE; an UnreachableError where
    the connection may be to blame.
    """
    status = _call(error, "code")
    details = _call(error, "details") or ""
    for key, value in _call(error, "trailing_metadata") or ():
        if key == ERROR_CODE_KEY:
            try:
                return FedhftError(ErrorCode(value), details)
            except ValueError:
                break  # a newer server; its status says enough
    if not isinstance(status, grpc.StatusCode):
        return FedhftError(ErrorCode.INTERNAL, f"the call failed without a status: {error!r}")
    code = _WITHOUT_CODE.get(status, ErrorCode.INTERNAL)
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and _MESSAGE_TOO_LARGE in details:
        code = ErrorCode.INTERNAL  # a defect: a retry would send the same message
    unreachable = status in _UNREACHABLE
    if code is ErrorCode.INTERNAL and any(sign in details for sign in _BROKEN_CONNECTION):
        code, unreachable = ErrorCode.SERVER_UNAVAILABLE, True
    if code is ErrorCode.SERVER_UNAVAILABLE:
        fix = "check that it is running, and its address" + _proxy_hint() + _tls_hint(details)
        kind = UnreachableError if unreachable else FedhftError
        return kind(code, f"the server does not answer ({status.name}: {details}); {fix}")
    if code is ErrorCode.PROTOCOL_VERSION:
        return FedhftError(
            code,
            f"the server does not know this call ({details}); agents need the address of --listen, people that of "
            "--admin-listen; use the same release on both sides",
        )
    return FedhftError(code, f"{status.name}: {details}")


def _proxy_hint() -> str:
    """What to check besides, where gRPC goes through a proxy. Its URL may hold a password: only the name is shown."""
    name = next((name for name in VARIABLES if os.environ.get(name)), None)
    return f"; {name} is set, so put the server's host into no_proxy if it is reached without a proxy" if name else ""


def _tls_hint(details: str) -> str:
    """What to check besides, when a connection failed in a way that TLS explains."""
    if any(sign in details for sign in _HANDSHAKE):
        return (
            "; the TLS handshake failed: the other side may not use TLS, or the certificate is not signed by "
            "--tls-authority, has expired, or names another host"
        )
    if any(sign in details for sign in _BROKEN_CONNECTION):
        return (
            "; if it uses TLS, this side needs --tls-authority, and where it asks for client certificates, "
            "--tls-certificate and --tls-key signed by its authority"
        )
    return ""


def _call(error: grpc.RpcError, name: str) -> Any:
    # Only calls made on a channel have these methods; a bare RpcError does not.
    method = getattr(error, name, None)
    return method() if callable(method) else None
