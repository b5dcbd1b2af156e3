"""One server that does not answer, over time: what is wrong is found out when that begins, not at every retry."""

from __future__ import annotations

import threading
import time

from fedhft.errors import ErrorCode, FedhftError
from fedhft.rpc.diagnosis import diagnose
from fedhft.rpc.status import UnreachableError
from fedhft.rpc.tls import TlsSettings

CAUSES = frozenset(
    {
        ErrorCode.SERVER_UNTRUSTED,
        ErrorCode.SERVER_CERTIFICATE_EXPIRED,
        ErrorCode.SERVER_CERTIFICATE_NOT_YET_VALID,
        ErrorCode.SERVER_NAME_MISMATCH,
        ErrorCode.CLIENT_CERTIFICATE_REFUSED,
        ErrorCode.SERVER_WITHOUT_TLS,
        ErrorCode.SERVER_NEEDS_TLS,
        ErrorCode.PROXY_REFUSED,
    }
)
"""Why no call can reach a server until somebody changes something."""
CURED_ELSEWHERE = frozenset(
    {
        ErrorCode.SERVER_CERTIFICATE_EXPIRED,
        ErrorCode.SERVER_CERTIFICATE_NOT_YET_VALID,
        ErrorCode.SERVER_WITHOUT_TLS,
        ErrorCode.PROXY_REFUSED,
    }
)
"""Those of them that usually end without any change on this machine."""
AGAIN_FIRST_S = 5.0
AGAIN_MOST_S = 60.0
"""How long what was found stands, at first and, doubled each time, at most: a server that is restarted is away for a
moment, and may come back with another fault."""


class Outage:
    """What is known about the way to one server. Thread-safe."""

    def __init__(self, server: str, tls: TlsSettings | None, again_first_s: float = AGAIN_FIRST_S) -> None:
        self._server = server
        self._tls = tls
        self._again_first_s = again_first_s
        self._lock = threading.Lock()
        self._stands_until: float | None = None
        self._stands_s = 0.0
        self._found: FedhftError | None = None
        self.ever_answered = False
        """Whether the server has answered since the process began, and so with these settings."""

    def answered(self) -> None:
        """The server answered a call, be it with a refusal."""
        self.ever_answered = True
        self._stands_until = self._found = None

    def explain(self, error: FedhftError) -> FedhftError:
        """The cause of a call's failure, where it can be found out; `error` itself for all others.

        Looks at the network the first time that the server does not answer, for a few seconds at most, and again when
        it still does not after a while; in between, the answer is remembered.
        """
        if not isinstance(error, UnreachableError):
            return error
        with self._lock:
            begins = self._stands_until is None
            if self._stands_until is None or time.monotonic() >= self._stands_until:
                self._found = diagnose(self._server, self._tls)
                self._stands_s = self._again_first_s if begins else min(2 * self._stands_s, AGAIN_MOST_S)
                self._stands_until = time.monotonic() + self._stands_s
            return self._found or error
