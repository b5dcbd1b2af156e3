"""What a certificate says, with the standard library only: edge nodes and the command line have nothing else.

`ssl` tells the fields of a certificate only after it has verified it. So a certificate that was not acceptable is
verified a second time by a context that trusts this very certificate and does not look at the clock; nothing is sent
over such a connection.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fedhft.rpc.tls import TlsSettings

Handshake = Callable[[ssl.SSLContext], dict[str, Any]]
"""Shakes hands once and returns what `getpeercert` tells. Raises OSError (ssl.SSLError is one)."""

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h, for which `ssl` has no name."""


@dataclass(frozen=True)
class CertificateShown:
    """Fields of a certificate."""

    names: tuple[str, ...]
    """DNS names and addresses that it is for."""
    uris: tuple[str, ...]
    """URIs that it is for, among them the SPIFFE id of its holder."""
    issuer: str
    """Common name of who signed it, or all it says about it."""
    not_before: float
    """Seconds since the epoch."""
    not_after: float
    """Seconds since the epoch."""


def client_context(tls: TlsSettings) -> ssl.SSLContext:
    """What this side shows and whom it trusts, as its files are now. Raises OSError, ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # gRPC too takes any certificate in the file for an authority
    context.hostname_checks_common_name = True
    context.set_alpn_protocols(["h2"])
    if tls.authority is not None:
        context.load_verify_locations(tls.authority)
    else:
        context.load_default_certs()
    _show_own(context, tls)
    return context


def trusting_context(tls: TlsSettings | None, certificate: bytes | None) -> ssl.SSLContext:
    """Trusts one certificate (DER) whatever its dates and names are; None: anything, and reads nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    if certificate is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=certificate)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    if tls is not None:
        _show_own(context, tls)
    return context


def own_certificate(tls: TlsSettings) -> CertificateShown | None:
    """Of this side's own file; None where it cannot be read.

    This side shows it to itself: a handshake between two ends in memory.
    """
    if tls.certificate is None or tls.key is None:
        return None
    try:
        certificate = ssl.PEM_cert_to_DER_cert(_first_pem(tls.certificate.read_text(encoding="ascii")))
        here = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        here.verify_mode = ssl.CERT_REQUIRED
        here.load_verify_locations(cadata=certificate)
        here.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
        _show_own(here, tls)
        return fields_of(_handshake_in_memory(here, trusting_context(tls, None)))
    except (OSError, ValueError):
        return None


def fields_of(told: dict[str, Any]) -> CertificateShown:
    """From what `getpeercert` tells. Raises ValueError."""
    issuer = [(key, value) for part in told.get("issuer", ()) for key, value in part]
    common = [value for key, value in issuer if key == "commonName"]
    return CertificateShown(
        tuple(value for kind, value in told.get("subjectAltName", ()) if kind in ("DNS", "IP Address")),
        tuple(value for kind, value in told.get("subjectAltName", ()) if kind == "URI"),
        common[0] if common else ", ".join(f"{key}={value}" for key, value in issuer),
        ssl.cert_time_to_seconds(told.get("notBefore", "")),
        ssl.cert_time_to_seconds(told.get("notAfter", "")),
    )


def expired_authority(context: ssl.SSLContext) -> float | None:
    """When the authority that a context trusts ended, if it has one and all have ended; seconds since the epoch."""
    ends = [ssl.cert_time_to_seconds(str(told["notAfter"])) for told in context.get_ca_certs() if "notAfter" in told]
    return max(ends) if ends and max(ends) < time.time() else None


def clock(seconds: float) -> str:
    """A time as messages show it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _show_own(context: ssl.SSLContext, tls: TlsSettings) -> None:
    if tls.certificate is not None and tls.key is not None:
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")


def _first_pem(text: str) -> str:
    """The first certificate of a chain."""
    end = text.find(ssl.PEM_FOOTER)
    start = text.find(ssl.PEM_HEADER)
    if start < 0 or end < start:
        raise ValueError("no certificate in PEM")
    return text[start : end + len(ssl.PEM_FOOTER)]


def _handshake_in_memory(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """What the client's end showed to the server's."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(up, down, server_side=True), client.wrap_bio(down, up)]
    for _ in range(8):  # more than any handshake has flights
        waiting = 0
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting += 1
        if not waiting:
            return ends[0].getpeercert() or {}
    raise ValueError("the handshake does not end")
