"""The certificate that the other end of a connection showed, parsed once and remembered.

An aggregator that serves ten thousand agents sees the same certificates again with every call, so what was read of one
is kept under its hash.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from fedhft.errors import ErrorCode, FedhftError
from fedhft.identity import SCHEME, Identity, parse_identity
from fedhft.rpc.tls import TlsSettings

REMEMBERED = 16_384
"""Certificates kept; of any more, the one that was read first is forgotten."""

DAMAGED = (ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What `cryptography` raises for bytes that are not a certificate, or not one that it understands."""


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a certificate says. That it is genuine and in date was checked when the connection opened."""

    identity: Identity
    serial: str
    """Hexadecimal, as in a deny list."""
    not_after: float
    """Seconds since the epoch."""


def parse_certificate(pem: bytes) -> PeerCertificate:
    """Read a certificate. Raises FedhftError(NOT_AUTHORISED) for one without exactly one identity of ours."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise _without_identity("has no subject alternative name") from None
    except DAMAGED as error:
        raise _without_identity(f"cannot be parsed ({str(error)[:200]})") from error
    uris = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith(SCHEME)]
    if len(uris) != 1:
        raise _without_identity(f"has {len(uris)} {SCHEME} URIs")
    try:
        identity = parse_identity(uris[0])
    except FedhftError as error:
        raise _without_identity(error.message[:500]) from error
    return PeerCertificate(
        identity, format(certificate.serial_number, "x"), certificate.not_valid_after_utc.timestamp()
    )


def trust_domain_of(tls: TlsSettings | None) -> str | None:
    """The trust domain of a server's callers; None where they show no certificates.

    Raises FedhftError(INVALID_ARGUMENT) when it is unclear whose certificates to trust.
    """
    if tls is None or tls.authority is None:
        return None
    if tls.trust_domain:
        return tls.trust_domain
    try:
        return parse_certificate(tls.read().certificate or b"").identity.trust_domain
    except FedhftError as error:
        if error.code is not ErrorCode.NOT_AUTHORISED:
            raise
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--tls-certificate", str(tls.certificate), "names no trust domain",
            "say whose certificates to trust with --trust-domain, or use a certificate of `fedhft certs issue`",
        ) from error  # fmt: skip


def check_trusted(certificate: PeerCertificate, trust_domain: str) -> None:
    """Raises FedhftError(NOT_AUTHORISED) for a certificate of another trust domain, or one that has expired since."""
    identity = certificate.identity
    if identity.trust_domain != trust_domain:
        raise FedhftError.field(
            ErrorCode.NOT_AUTHORISED, "certificate", identity.uri, f"this server trusts {trust_domain}",
            "use a certificate of that trust domain",
        )  # fmt: skip
    if certificate.not_after < time.time():
        ended = datetime.fromtimestamp(certificate.not_after, UTC).isoformat()
        raise FedhftError.field(
            ErrorCode.NOT_AUTHORISED, "certificate", identity.uri, f"expired at {ended}",
            "renew it: fedhft certs renew",
        )  # fmt: skip


def expiry_of(pem: bytes) -> float:
    """When the first certificate of a chain ends, seconds since the epoch. Raises one of DAMAGED."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


class PeerCertificates:
    """Certificates read before, by hash."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._known: dict[bytes, PeerCertificate] = {}

    def read(self, security: Mapping[str, Iterable[bytes]]) -> PeerCertificate:
        """The certificate in gRPC's authentication context. Raises FedhftError(NOT_AUTHORISED)."""
        shown = next(iter(security.get("x509_pem_cert", ())), b"")
        if not shown:
            raise _without_identity("was not shown")
        digest = hashlib.sha256(shown).digest()
        known = self._known.get(digest)
        if known is None:
            known = parse_certificate(shown)
            if len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[digest] = known
        return known


def _without_identity(problem: str) -> FedhftError:
    return FedhftError(
        ErrorCode.NOT_AUTHORISED,
        f"the caller's certificate {problem}; it needs one SAN URI such as {SCHEME}<trust domain>/agent/<client id>: "
        "see `fedhft certs issue`",
    )
