"""TLS of both ends, read from PEM files that may be replaced while the process runs."""

from __future__ import annotations

import logging
import os
import ssl
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from fedhft.errors import ErrorCode, FedhftError
from fedhft.telemetry import metrics

logger = logging.getLogger(__name__)

_CERTIFICATE, _PRIVATE_KEY = b"CERTIFICATE-----", b"PRIVATE KEY-----"
"""How the first line of PEM ends; there are several kinds of both."""

Stamp = tuple[tuple[int, int, int] | None, ...]
"""What tells that a file was replaced, for each file: inode, time of change and size; None when it is not there."""


@dataclass(frozen=True)
class Pems:
    """The content of one party's files at one moment."""

    certificate: bytes | None
    key: bytes | None
    authority: bytes | None


@dataclass(frozen=True)
class TlsSettings:
    """Files of one party. A server needs certificate and key; a client needs them if the server asks for them."""

    certificate: Path | None = None
    """PEM chain of this party."""
    key: Path | None = None
    """PEM private key of this party; only its owner may be able to read it."""
    authority: Path | None = None
    """PEM certificates that sign the other party's; None: the system's (client), none is asked for (server)."""
    trust_domain: str = ""
    """Of the callers a server lets in; empty: that of its own certificate."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise FedhftError(
                ErrorCode.INVALID_ARGUMENT, "TLS: a certificate and its key go together; give both files or neither"
            )

    def stamp(self) -> Stamp:
        """Changes when one of the files does."""
        return tuple(_stamp(path) for path in (self.certificate, self.key, self.authority))

    def read(self) -> Pems:
        """The files' content, checked: PEM, a key that is the certificate's and that nobody else can read.

        Raises FedhftError(TLS_FILE_NOT_PEM, TLS_KEY_MISMATCH), and (INVALID_ARGUMENT) for a file that cannot be read
        here, or can be by others.
        """
        if self.key is not None:
            check_private(self.key)
        pems = Pems(_read(self.certificate), _read(self.key), _read(self.authority))
        for path, content in ((self.authority, pems.authority), (self.certificate, pems.certificate)):
            if path is not None and _CERTIFICATE not in (content or b""):
                raise _not_pem(path, "CERTIFICATE", "openssl x509")
        if self.key is not None and _PRIVATE_KEY not in (pems.key or b""):
            raise _not_pem(self.key, "PRIVATE KEY", "openssl pkey")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.authority is not None:
            try:
                context.load_verify_locations(self.authority)
            except ssl.SSLError as error:
                raise _damaged(self.authority, error) from error
        if self.certificate is not None and self.key is not None:
            try:
                # A password is never asked for: a service has nobody to ask.
                context.load_cert_chain(self.certificate, self.key, password=lambda: "")
            except (ssl.SSLError, OSError, ValueError) as error:
                if "MISMATCH" in (getattr(error, "reason", None) or ""):
                    raise _another_pair(self.certificate, self.key) from error
                raise _damaged(self.certificate, error, f" with the key {self.key}") from error
        return pems

    def server_credentials(self, on_use: Callable[[Pems], None] = lambda pems: None) -> grpc.ServerCredentials:
        """Credentials of a server; with an authority, clients must show a certificate it signed.

        Every handshake looks whether the files were replaced, and uses the new ones if they are sound; `on_use` is told
        of the first ones and of each replacement, in whatever thread noticed it.
        Raises FedhftError: as `read`, and (INVALID_ARGUMENT) without a certificate.
        """
        if self.certificate is None or self.key is None:
            raise FedhftError(ErrorCode.INVALID_ARGUMENT, "TLS: a server needs a certificate and a key; give both")
        files = WatchedFiles(self)
        on_use(files.pems)

        def renewed() -> Any:  # None, which the stubs leave out, keeps what is in use
            pems = files.replaced()
            if pems is None:
                return None
            on_use(pems)
            return _configuration(pems)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(files.pems), renewed, require_client_authentication=self.authority is not None
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a client, as its files are now. Raises FedhftError: as `read`."""
        return channel_credentials(self.read())


def channel_credentials(pems: Pems) -> grpc.ChannelCredentials:
    """Credentials of a client."""
    return grpc.ssl_channel_credentials(
        root_certificates=pems.authority, private_key=pems.key, certificate_chain=pems.certificate
    )


class WatchedFiles:
    """One party's files, read again when they have been replaced. A replacement that is not sound changes nothing.

    Raises FedhftError when the files are not sound at the start. Thread-safe: gRPC asks from its own
    threads.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._stamp = settings.stamp()
        self.pems = settings.read()
        """The content in use."""

    def replaced(self) -> Pems | None:
        """The new content if the files were replaced since the last call; None if not, or if they are not sound."""
        with self._lock:
            stamp = self._settings.stamp()
            if stamp == self._stamp:
                return None
            try:
                pems = self._settings.read()
            except FedhftError as error:
                self._stamp = stamp  # said once; the next change is looked at again
                metrics.TLS_RELOADS.labels(outcome="refused").inc()
                logger.warning("new TLS files are not used: %s", error.message)
                return None
            if stamp != self._settings.stamp():
                return None  # still being written: the next call reads them
            self._stamp = stamp
            if pems == self.pems:
                return None
            self.pems = pems
            metrics.TLS_RELOADS.labels(outcome="used").inc()
            logger.info("new TLS files are used", extra={"certificate": str(self._settings.certificate)})
            return pems


def check_private(path: Path) -> None:
    """Refuse a key that others on this machine can read. Raises FedhftError(INVALID_ARGUMENT).

    One exception: a file of root that a group may read, as Kubernetes mounts secrets for a pod with an fsGroup. The
    process does not own it and could not read it otherwise, and root decides who is in the group.
    """
    if os.name != "posix":
        return
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    open_bits = stat.S_IMODE(found.st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    if open_bits == stat.S_IRGRP and found.st_uid == 0 != os.geteuid():
        return
    if open_bits:
        mode = stat.S_IMODE(found.st_mode)
        fix = f"chmod 600 {path} (in Kubernetes: defaultMode 0440 and an fsGroup)"
        raise _refused(path, f"others can read this key (mode {mode:04o}); {fix}")


def _configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    pair = (pems.key or b"", pems.certificate or b"")
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=pems.authority)


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_ino, found.st_mtime_ns, found.st_size)


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> FedhftError:
    return _refused(path, f"cannot be read ({error.strerror}); check the path")


def _not_pem(path: Path, label: str, converter: str) -> FedhftError:
    problem = f"is not PEM, it has no line -----BEGIN {label}-----"
    fix = f"convert it, if it is DER: {converter} -inform der -in {path} -out {path}.pem"
    return _refused(path, f"{problem}; {fix}", ErrorCode.TLS_FILE_NOT_PEM)


def _damaged(path: Path, error: Exception, also: str = "") -> FedhftError:
    reason = str(getattr(error, "reason", None) or error).replace("_", " ").lower()
    fix = "copy it again from who issued it; a key must not have a passphrase"
    return _refused(path, f"cannot be used{also} ({reason}); {fix}", ErrorCode.TLS_FILE_NOT_PEM)


def _another_pair(certificate: Path, key: Path) -> FedhftError:
    problem = f"does not go with the key {key}, which is another certificate's"
    return _refused(certificate, f"{problem}; give the pair that was issued together", ErrorCode.TLS_KEY_MISMATCH)


def _refused(path: Path, problem: str, code: ErrorCode = ErrorCode.INVALID_ARGUMENT) -> FedhftError:
    # Not FedhftError.field, which would cut a long path before the name of the file.
    return FedhftError(code, f"TLS file {path}: {problem}")
