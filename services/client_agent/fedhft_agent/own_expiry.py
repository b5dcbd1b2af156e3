"""When the agent's own certificate ends, read again when its files are replaced."""

from __future__ import annotations

from fedhft.rpc.certificate_shown import own_certificate
from fedhft.rpc.tls import Stamp, TlsSettings


class OwnExpiry:
    """The end of a certificate in files that may be replaced while the process runs."""

    def __init__(self, tls: TlsSettings | None) -> None:
        self._tls = tls
        self._stamp: Stamp | None = None
        self._ends = 0.0

    def seconds(self) -> float:
        """Seconds since the epoch; 0 without a certificate, the last known end while the files are being replaced."""
        if self._tls is None or self._tls.certificate is None:
            return 0.0
        if (stamp := self._tls.stamp()) != self._stamp:
            own = own_certificate(self._tls)
            if own is None:
                return self._ends
            self._ends = own.not_after
            self._stamp = stamp
        return self._ends
