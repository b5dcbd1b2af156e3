"""TLS of both ends, read from PEM files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from fedhft.errors import ErrorCode, FedhftError


@dataclass(frozen=True)
class TlsSettings:
    """Files of one party. A server needs certificate and key; a client needs them if the server asks for them."""

    certificate: Path | None = None
    """PEM chain of this party."""
    key: Path | None = None
    """PEM private key of this party."""
    authority: Path | None = None
    """PEM certificates that sign the other party's; None: the system's (client), none is asked for (server)."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise FedhftError(
                ErrorCode.INVALID_ARGUMENT, "TLS: a certificate and its key go together; give both files or neither"
            )

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials of a server; with an authority, clients must show a certificate it signed."""
        if self.certificate is None or self.key is None:
            raise FedhftError(ErrorCode.INVALID_ARGUMENT, "TLS: a server needs a certificate and a key; give both")
        authority = _read(self.authority)
        pairs = [(_content(self.key), _content(self.certificate))]
        return grpc.ssl_server_credentials(
            pairs, root_certificates=authority, require_client_auth=authority is not None
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a client."""
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.authority),
            private_key=_read(self.key),
            certificate_chain=_read(self.certificate),
        )


def _read(path: Path | None) -> bytes | None:
    return None if path is None else _content(path)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "TLS file", str(path), f"cannot be read ({error.strerror})", "check the path"
        ) from error
