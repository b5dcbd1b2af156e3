"""Our certificate and the server's, with what the standard library offers: agents come without `cryptography`."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fedhft.errors import ErrorCode, FedhftError
from fedhft.rpc.tls import TlsSettings

_EVEN_IF_EXPIRED = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME."""
_WRONG_NAME = (62, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""
_WRONG_TIME = {9: "is not valid yet", 10: "has expired"}
_FIRST_WORD_S = 2.0
"""How long the server may take to say that it does not like our certificate, once the connection stands."""


def own_certificate(tls: TlsSettings) -> Mapping[str, Any]:
    """What our certificate says, as `ssl.SSLSocket.getpeercert` puts it, even when it has expired.

    The standard library only reads a certificate that was shown and verified, so this side shows it to itself.
    Raises FedhftError(INVALID_ARGUMENT) for one that is not for clients.
    """
    if tls.certificate is None or tls.key is None:
        raise FedhftError(ErrorCode.INVALID_ARGUMENT, "TLS: there is no certificate; give one")
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    asking.verify_mode = ssl.CERT_REQUIRED
    asking.load_verify_locations(cafile=tls.certificate)
    asking.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_EVEN_IF_EXPIRED)
    showing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    showing.check_hostname, showing.verify_mode = False, ssl.CERT_NONE
    for context in (asking, showing):
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = asking.wrap_bio(to_server, to_client, server_side=True)
    client = showing.wrap_bio(to_client, to_server)
    try:
        for side in (client, server, client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLError as error:
        raise FedhftError(
            ErrorCode.INVALID_ARGUMENT,
            f"TLS file {tls.certificate}: is not a certificate that a client can show ({error.reason}); "
            "give the agent's own certificate",
        ) from error
    return server.getpeercert() or {}


def days_left(certificate: Mapping[str, Any], now: datetime) -> tuple[float, float]:
    """Days since a certificate's validity began, and until it ends; negative for neither yet, or no longer."""
    begins, ends = (
        datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate[key]), UTC) for key in ("notBefore", "notAfter")
    )
    return (now - begins).total_seconds() / 86400, (ends - now).total_seconds() / 86400


def check_handshake(host: str, port: int, tls: TlsSettings, timeout_s: float) -> str:
    """Shake hands as the agent would; returns the protocol's version.

    Raises FedhftError(SERVER_UNAVAILABLE) when the server does not speak TLS or shows a certificate that is not good
    for us, (NOT_AUTHORISED) when it does not take ours.
    """
    try:
        return _shake_hands(host, port, tls, timeout_s, _context(tls))[0]
    except ssl.SSLCertVerificationError as error:
        raise FedhftError(ErrorCode.SERVER_UNAVAILABLE, _unverified(error, host, port, tls, timeout_s)) from error
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        if "alert" in reason:
            raise _not_taken(reason) from error
        raise FedhftError(
            ErrorCode.SERVER_UNAVAILABLE,
            f"the server does not speak TLS ({reason}); check the port, or leave --tls-authority and the other files "
            "out",
        ) from error
    except OSError as error:
        raise FedhftError(
            ErrorCode.SERVER_UNAVAILABLE, f"the handshake broke off ({error}); check the address and what lies between"
        ) from error


def _heard(connection: ssl.SSLSocket) -> bool:
    """Whether the server speaks; gRPC's hangs up, without an alert, on a client whose certificate it does not take."""
    try:
        return bool(connection.recv(1))
    except ConnectionResetError:
        return False


def _not_taken(reason: str) -> FedhftError:
    return FedhftError(
        ErrorCode.NOT_AUTHORISED,
        f"the server does not take this agent's certificate ({reason}); give --tls-certificate and --tls-key "
        "that are in date and signed by the authority that the server trusts",
    )


def _unverified(error: ssl.SSLCertVerificationError, host: str, port: int, tls: TlsSettings, timeout_s: float) -> str:
    if error.verify_code in _WRONG_TIME:
        when = _WRONG_TIME[error.verify_code]
        return f"the server's certificate {when}; renew it, unless the clock of this machine is wrong"
    if error.verify_code in _WRONG_NAME:
        names = _names(host, port, tls, timeout_s)
        return (
            f"the server's certificate is for {names or 'no host'}, not for {host}; call the server by one of its "
            "names, or issue it a certificate with this one"
        )
    signer = f"the authority in {tls.authority}" if tls.authority else "an authority of this system"
    return (
        f"the server's certificate is not signed by {signer} ({error.verify_message}); give the server's ca.crt as "
        "--tls-authority"
    )


def _names(host: str, port: int, tls: TlsSettings, timeout_s: float) -> str:
    """Whom the server's certificate is for; everything else about it has been found good."""
    context = _context(tls)
    context.check_hostname = False
    with contextlib.suppress(OSError):
        _, certificate = _shake_hands(host, port, tls, timeout_s, context)
        return ", ".join(value for kind, value in certificate.get("subjectAltName", ()) if kind != "URI")
    return "another host"


def _context(tls: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if tls.authority is not None:
        context.load_verify_locations(cafile=tls.authority)
    else:
        context.load_default_certs()
    if tls.certificate is not None and tls.key is not None:
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")
    return context


def _shake_hands(
    host: str, port: int, tls: TlsSettings, timeout_s: float, context: ssl.SSLContext
) -> tuple[str, Mapping[str, Any]]:
    with (
        socket.create_connection((host, port), timeout_s) as raw,
        context.wrap_socket(raw, server_hostname=host) as connection,
    ):
        version, certificate = connection.version() or "TLS", connection.getpeercert() or {}
        # In TLS 1.3 a server refuses a client's certificate when the client thinks that the handshake is over.
        connection.settimeout(_FIRST_WORD_S)
        with contextlib.suppress(TimeoutError):
            if not _heard(connection):
                raise _not_taken("it closed the connection")
        return version, certificate
