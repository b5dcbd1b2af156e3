"""Who may look at the page. On loopback whoever is on this machine; elsewhere operators, by their certificates."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass

from fedhft.errors import ErrorCode, FedhftError
from fedhft.rpc.address import is_loopback, parse_address
from fedhft.rpc.interceptors.callers import Check
from fedhft.rpc.peer import PeerCertificates, check_trusted, trust_domain_of
from fedhft.rpc.roles import check_viewer
from fedhft.rpc.tls import TlsSettings, WatchedFiles

log = logging.getLogger(__name__)

FIELD = "--page"
Recheck = Callable[[], None]
"""Raises what a new request of the same viewer would be refused with now."""


@dataclass(frozen=True)
class PageSettings:
    """Where the page is served, and with which files. Raises FedhftError(INVALID_ARGUMENT) for what would expose it."""

    listen: str
    """host:port; port 0 picks a free one."""
    tls: TlsSettings | None = None
    """This process's own; not used on loopback."""
    check_certificate: Check | None = None
    """Raises for a certificate that is no longer to be trusted."""

    def __post_init__(self) -> None:
        host, _ = parse_address(self.listen, FIELD)
        if not is_loopback(host) and (self.tls is None or self.tls.authority is None):
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, FIELD, self.listen,
                "other machines can reach it, and without TLS and an authority for client certificates anybody could "
                "read it",
                "give --tls-certificate, --tls-key and --tls-authority, or serve it on 127.0.0.1 and forward the port "
                "(ssh -L, kubectl port-forward)",
            )  # fmt: skip

    @property
    def address(self) -> tuple[str, int]:
        """Host, IPv6 without brackets, and port."""
        host, port = parse_address(self.listen, FIELD)
        return host.strip("[]"), port

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.address[0])


class Gate:
    """Decides about every connection."""

    def __init__(self, settings: PageSettings) -> None:
        """Raises FedhftError(INVALID_ARGUMENT) for TLS files that cannot be used."""
        self._settings = settings
        self._certificates = PeerCertificates()
        self._lock = threading.Lock()
        self._trust_domain: str | None = None
        self._files: WatchedFiles | None = None
        self._context: ssl.SSLContext | None = None
        if not settings.on_loopback and settings.tls is not None:
            self._trust_domain = trust_domain_of(settings.tls)
            self._files = WatchedFiles(settings.tls)
            self._context = _context(settings.tls)

    @property
    def tls(self) -> Callable[[], ssl.SSLContext] | None:
        """For the server: the context of the next connection. None on loopback."""
        return None if self._context is None else self._current

    def admit(self, connection: object, host: str) -> Recheck:
        """Let a request in, or raise FedhftError(NOT_AUTHORISED and what the deny list raises). host: its Host header.

        On loopback a request must have been made to a loopback name: a web site that points its own name at 127.0.0.1
        (DNS rebinding) would otherwise read the page through the browser of whoever visits it.
        """
        if self._trust_domain is None or not isinstance(connection, ssl.SSLSocket):
            name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
            if not is_loopback(name):
                raise FedhftError.field(
                    ErrorCode.NOT_AUTHORISED, "Host", host, "the page is served to this machine only",
                    "open it as http://localhost and its port",
                )  # fmt: skip
            return _nothing
        shown = connection.getpeercert(binary_form=True)
        pem = ssl.DER_cert_to_PEM_cert(shown).encode() if shown else b""
        certificate = self._certificates.read({"x509_pem_cert": [pem]})
        trusted = self._trust_domain

        def recheck() -> None:
            check_trusted(certificate, trusted)
            check_viewer(certificate.identity)
            if self._settings.check_certificate is not None:
                self._settings.check_certificate(certificate)

        recheck()
        return recheck

    def _current(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None or self._files is None or self._settings.tls is None:
                raise FedhftError(ErrorCode.INTERNAL, "the page has no TLS files")
            if self._files.replaced() is not None:
                try:
                    self._context = _context(self._settings.tls)
                except (OSError, ValueError) as error:  # replaced once more while they were read
                    log.warning("new TLS files are not used by the page: %s", error)
            return self._context


def _context(tls: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC: any certificate in the file is an authority
    if tls.certificate is not None and tls.key is not None and tls.authority is not None:
        context.load_verify_locations(tls.authority)
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")
    return context


def _nothing() -> None:
    """Whoever is on this machine stays there."""
