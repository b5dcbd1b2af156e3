"""When the agent's own certificate ends, read again when its files are replaced."""

from __future__ import annotations

import ssl

from fedhft.errors import FedhftError
from fedhft.rpc.tls import Stamp, TlsSettings
from fedhft_agent.check.certificates import own_certificate


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
            try:
                self._ends = float(ssl.cert_time_to_seconds(own_certificate(self._tls)["notAfter"]))
            except (FedhftError, OSError, KeyError, ValueError):
                return self._ends
            self._stamp = stamp
        return self._ends
