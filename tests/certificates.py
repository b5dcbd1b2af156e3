"""A certificate authority for tests, made by the same code as `fedhft certs`: real files, real signatures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedhft.certs import authority, x509
from fedhft.certs.authority import Authority
from fedhft.certs.files import write_file
from fedhft.identity import Identity
from fedhft.rpc.tls import TlsSettings

TRUST_DOMAIN = "clinics.example"
LOCAL = ("localhost", "127.0.0.1")


class Certificates:
    """An authority, and TLS settings of whoever a test needs."""

    def __init__(self, folder: Path, trust_domain: str = TRUST_DOMAIN) -> None:
        self.authority = Authority.init(folder / trust_domain, trust_domain)

    def of(self, path: str) -> TlsSettings:
        """The files of a holder such as agent/ash, issued when first asked for."""
        identity = self.authority.identity(path)
        self.authority.issue(identity, LOCAL if identity.role.serves else ())
        return self.files(identity)

    def files(self, identity: Identity) -> TlsSettings:
        holder = self.authority.holder(identity)
        return TlsSettings(holder.certificate, holder.key, holder.authority)

    def renew(self, path: str) -> None:
        self.authority.renew(self.authority.identity(path))

    def expired(self, path: str) -> TlsSettings:
        """A certificate that ended yesterday."""
        identity = self.authority.identity(path)
        return self._made(identity, datetime.now(UTC) - timedelta(days=3), 2, "expired")

    def to_come(self, path: str) -> TlsSettings:
        """A certificate that begins the day after tomorrow."""
        identity = self.authority.identity(path)
        return self._made(identity, datetime.now(UTC) + timedelta(days=2), 2, "to-come")

    def ending(self, path: str, seconds: float) -> TlsSettings:
        """A certificate that is valid for some more seconds."""
        identity = self.authority.identity(path)
        return self._made(identity, datetime.now(UTC) - timedelta(days=1, seconds=-seconds), 1, "ending")

    def named(self, path: str, *hosts: str) -> TlsSettings:
        """A server's certificate for these hosts only."""
        return self._made(self.authority.identity(path), datetime.now(UTC), 2, "named", hosts)

    def _made(
        self, identity: Identity, now: datetime, days: int, name: str, hosts: Sequence[str] | None = None
    ) -> TlsSettings:
        if hosts is None:
            hosts = LOCAL if identity.role.serves else ()
        # An authority's certificate begins when it was made; this one began earlier, so it is not asked to check.
        signed = x509.new_certificate(self.authority._own, identity, hosts, now, days)
        holder = authority.Holder(self.authority.folder / name / identity.path)
        write_file(holder.authority, (self.authority.folder / "ca.crt").read_bytes(), private=False, replace=True)
        write_file(holder.key, signed.key_pem, private=True, replace=True)
        write_file(holder.certificate, signed.certificate_pem, private=False, replace=True)
        return TlsSettings(holder.certificate, holder.key, holder.authority)
