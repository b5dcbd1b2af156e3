"""Why a server cannot be talked to, found out by this side itself: resolve, connect, shake hands, one frame of HTTP/2.

gRPC's own words about a failed connection are those of the last address that it tried, and often only that the socket
was closed. So when a channel fails, every address is tried here once more, with the same files and a few seconds of
time, and what was found is said in words that name the cause and the fix.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from fedhft.errors import ErrorCode, FedhftError
from fedhft.rpc import proxies
from fedhft.rpc.address import is_loopback, parse_address
from fedhft.rpc.certificate_shown import (
    CertificateShown,
    client_context,
    clock,
    expired_authority,
    fields_of,
    own_certificate,
    trusting_context,
)
from fedhft.rpc.tls import TlsSettings

LONGEST_S = 5.0
"""A diagnosis that takes longer is not waited for."""

_STEP_S = 2.0
"""How long each step with the network may take."""
_MOST_ADDRESSES = 4
_AGAIN_S = 0.2
"""Pause before looking again whether a server ends connections without a word."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
"""What a client begins with: the preface and empty SETTINGS, RFC 9113 sections 3.4 and 6.5."""
_SETTINGS_FRAME = 4
_FRAME_HEADER = 9
_EXPIRED, _NOT_YET_VALID, _WRONG_PURPOSE, _WRONG_NAME, _WRONG_ADDRESS = 10, 9, 26, 62, 64
"""OpenSSL's X509_V_ERR_: CERT_HAS_EXPIRED, CERT_NOT_YET_VALID, INVALID_PURPOSE, HOSTNAME_MISMATCH,
IP_ADDRESS_MISMATCH."""
_ABOUT_OURS = ("ALERT_UNKNOWN_CA", "ALERT_ACCESS_DENIED", "ALERT_BAD_CERT", "ALERT_CERT", "ALERT_UNSUPPORTED_CERT")
"""How OpenSSL's names of the alerts begin that are about the certificate of this side; gRPC's server sends none."""

Dial = Callable[[], AbstractContextManager[socket.socket]]


class Way(NamedTuple):
    """One way to the server: an address of its name, or a proxy."""

    server: str
    """host:port as it was given."""
    host: str
    """Without brackets: the name that the certificate is checked for."""
    place: str
    """The server and the address that is dialled, for messages."""
    dial: Dial
    """Opens a connection. Raises OSError, FedhftError(PROXY_REFUSED)."""


def diagnose(server: str, tls: TlsSettings | None, longest_s: float = LONGEST_S) -> FedhftError | None:
    """What is wrong with the way to host:port; None when nothing is, or when that cannot be told in time."""
    found: list[FedhftError | None] = []
    # A thread: looking up a name cannot be given a time limit.
    looker = threading.Thread(target=lambda: found.append(_look(server, tls)), name="diagnosis", daemon=True)
    looker.start()
    looker.join(longest_s)
    return found[0] if found else None


def _look(server: str, tls: TlsSettings | None) -> FedhftError | None:
    try:
        faults = []
        for way in ways(server):
            fault = _try(way, tls)
            if fault is None:
                return None
            faults.append(fault)
    except FedhftError as error:
        return error
    except (OSError, ValueError):  # files that are being replaced, or bytes that nobody expects
        return None
    certain = [fault for fault in faults if fault.code is not ErrorCode.SERVER_UNAVAILABLE]
    if certain:
        return certain[0]
    return no_answer([fault.message for fault in faults])


def ways(server: str) -> Iterator[Way]:
    """Every way that gRPC may take to host:port. Raises FedhftError when the name of the host is not known."""
    host, port = parse_address(server, "server")
    host = host.strip("[]")
    proxy = None if is_loopback(host) else proxies.proxy_of(host)
    if proxy is not None:
        yield Way(server, host, f"{server} (through the proxy {proxy.place})", lambda: _through(proxy, server))
        return
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise server_away(
            f"the server does not answer: the name {host} of {server} is not known here "
            f"({getattr(error, 'strerror', None) or error}); check the address, and this machine's name service"
        ) from error
    for family, _, _, _, address in found[:_MOST_ADDRESSES]:
        ip = str(address[0])
        place = server if ip == host else f"{server} at {ip}"
        yield Way(server, host, place, lambda family=family, address=address: _direct(family, address))  # type: ignore[misc]


def _try(way: Way, tls: TlsSettings | None) -> FedhftError | None:
    """Try one way. None: a client could go on."""
    try:
        with way.dial():
            pass
    except OSError as error:
        return server_away(f"{way.place}: {reason_of(error)}")
    return _plain(way) if tls is None else _secured(way, tls)


# -- plain text


def _plain(way: Way) -> FedhftError | None:
    try:
        answer = _first_frame(way)
    except OSError as error:
        answer, reason = b"", reason_of(error)
    else:
        reason = "the connection is closed without an answer" if not answer else "what answers does not speak HTTP/2"
    if _is_settings(answer):
        return None
    if _speaks_tls(way):
        return FedhftError(
            ErrorCode.SERVER_NEEDS_TLS,
            f"{way.place} uses TLS, and this side does not; give --tls-authority, the certificate of the "
            "authority that signed the server's and, where the server asks for one, your own with --tls-certificate "
            "and --tls-key",
        )
    return server_away(f"{way.place}: {reason}")


def _speaks_tls(way: Way) -> bool:
    try:
        _handshake(way, trusting_context(None, None))
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # a server that refuses us by the rules of TLS speaks it
    except OSError:
        return False
    return True


def _first_frame(way: Way) -> bytes:
    with way.dial() as connection:
        connection.sendall(_PREFACE)
        return _received(connection)


def _received(connection: socket.socket) -> bytes:
    """The first bytes that come, as many as a frame's header has."""
    answer = b""
    while len(answer) < _FRAME_HEADER and (more := connection.recv(_FRAME_HEADER - len(answer))):
        answer += more
    return answer


def _is_settings(answer: bytes) -> bool:
    return len(answer) == _FRAME_HEADER and answer[3] == _SETTINGS_FRAME


# -- TLS


def _secured(way: Way, tls: TlsSettings) -> FedhftError | None:
    context = client_context(tls)
    try:
        refused = _says_nothing(way, context)
        if refused:
            time.sleep(_AGAIN_S)
            refused = _says_nothing(way, context)  # a server that is just being stopped would be gone now
    except ssl.SSLCertVerificationError as error:
        return _unacceptable(way, tls, context, error)
    except ssl.SSLError as error:
        if any(sign in (error.reason or "") for sign in _ABOUT_OURS):
            return _own_refused(way, tls, str(error.reason).rpartition("ALERT_")[2].replace("_", " ").lower())
        return _without_tls(way, error)
    except OSError as error:
        return _without_tls(way, error)
    return _own_refused(way, tls, "") if refused else None


def _says_nothing(way: Way, context: ssl.SSLContext) -> bool:
    """Shake hands and begin; whether the server ends the connection instead of beginning too.

    In TLS 1.3 a client learns only then what the server thinks of its certificate, and gRPC's server does not say it.
    """
    with way.dial() as plain, context.wrap_socket(plain, server_hostname=way.host) as secured:
        try:
            secured.sendall(_PREFACE)
            answer = _received(secured)
        except (ssl.SSLEOFError, ConnectionError):
            return True
    if answer and not _is_settings(answer):
        raise OSError("what answers does not speak HTTP/2")
    return not answer


def _without_tls(way: Way, error: OSError) -> FedhftError:
    with contextlib.suppress(OSError):
        if _is_settings(_first_frame(way)):
            return FedhftError(
                ErrorCode.SERVER_WITHOUT_TLS,
                f"{way.place} does not use TLS, and this side does; give the server --tls-certificate and --tls-key, "
                "or leave out --tls-authority, --tls-certificate and --tls-key here",
            )
    return server_away(f"{way.place}: the TLS handshake failed: {reason_of(error)}")


def _unacceptable(
    way: Way, tls: TlsSettings, context: ssl.SSLContext, error: ssl.SSLCertVerificationError
) -> FedhftError:
    """Why the server's certificate is not good."""
    shown, now = _shown(way, tls), time.time()
    if error.verify_code in (_WRONG_NAME, _WRONG_ADDRESS):
        names = ", ".join(shown.names) if shown is not None and shown.names else "no host"
        return FedhftError(
            ErrorCode.SERVER_NAME_MISMATCH,
            f"the certificate of {way.place} is for {names}, not for {way.host}; reach the server by a name of its "
            f"certificate, or issue it one for this name: fedhft certs renew aggregator --host {way.host}, with its "
            "other hosts",
        )
    if error.verify_code == _EXPIRED and (shown is None or shown.not_after < now):
        since = f" since {clock(shown.not_after)}" if shown is not None else ""
        return FedhftError(
            ErrorCode.SERVER_CERTIFICATE_EXPIRED,
            f"the certificate of {way.place} has expired{since}, by this machine's clock ({clock(now)}); renew it at "
            "the server: fedhft certs renew",
        )
    if error.verify_code == _NOT_YET_VALID and (shown is None or shown.not_before > now):
        until = f" until {clock(shown.not_before)}" if shown is not None else ""
        return FedhftError(
            ErrorCode.SERVER_CERTIFICATE_NOT_YET_VALID,
            f"the certificate of {way.place} is not yet valid{until}, by this machine's clock ({clock(now)}); compare "
            "the clocks of this machine and of the one that issued it",
        )
    return _untrusted(way, tls, context, error, shown)


def _untrusted(
    way: Way,
    tls: TlsSettings,
    context: ssl.SSLContext,
    error: ssl.SSLCertVerificationError,
    shown: CertificateShown | None,
) -> FedhftError:
    whose = f"--tls-authority ({tls.authority})" if tls.authority is not None else "the system's authorities"
    ended = expired_authority(context) if error.verify_code == _EXPIRED else None
    if ended is not None:
        problem, fix = f"is signed by {whose}, which has expired since {clock(ended)}", "get the new authority's"
    elif error.verify_code == _WRONG_PURPOSE:
        problem = "is not one of a server"
        fix = "check that it is the right server; issue it a certificate with fedhft certs issue aggregator"
    else:
        by = f"; its issuer is {shown.issuer!r}" if shown is not None and shown.issuer else ""
        problem = f"is not signed by {whose}: {error.verify_message}{by}"
        fix = "check that it is the right server, and give --tls-authority the ca.crt of its authority"
    return FedhftError(ErrorCode.SERVER_UNTRUSTED, f"the certificate of {way.place} {problem}; {fix}")


def _shown(way: Way, tls: TlsSettings) -> CertificateShown | None:
    """What the certificate says that could not be verified; None where it does not tell."""
    try:
        with (
            way.dial() as plain,
            trusting_context(tls, None).wrap_socket(plain, server_hostname=way.host) as secured,
        ):
            certificate = secured.getpeercert(binary_form=True)
        return fields_of(_handshake(way, trusting_context(tls, certificate))) if certificate else None
    except (OSError, ValueError):
        return None


def _own_refused(way: Way, tls: TlsSettings, said: str) -> FedhftError:
    """The server asks for a certificate of this side, which has none or another."""
    if tls.certificate is None:
        problem = "requires a certificate of its callers, and none was given"
        fix = "give --tls-certificate and --tls-key, issued by the server's authority: fedhft certs issue"
    else:
        own = own_certificate(tls)
        if own is not None and own.not_after < time.time():
            problem = f"does not accept --tls-certificate ({tls.certificate}), which has expired since "
            problem, fix = problem + clock(own.not_after), "get a new one: fedhft certs renew"
        elif own is not None and own.not_before > time.time():
            problem = f"does not accept --tls-certificate ({tls.certificate}), which is not valid until "
            problem, fix = problem + clock(own.not_before), "check this machine's clock"
        else:
            by = f", issued by {own.issuer!r}" if own is not None and own.issuer else ""
            problem = f"does not accept --tls-certificate ({tls.certificate}{by})"
            fix = "give one that the server's --tls-authority has signed"
    return FedhftError(
        ErrorCode.CLIENT_CERTIFICATE_REFUSED, f"{way.place} {problem}{f' ({said})' if said else ''}; {fix}"
    )


def _handshake(way: Way, context: ssl.SSLContext) -> dict[str, Any]:
    with way.dial() as plain, context.wrap_socket(plain, server_hostname=way.host) as secured:
        return secured.getpeercert() or {}


# -- connections


def _direct(family: int, address: Any) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(_STEP_S)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def _through(proxy: proxies.Proxy, server: str) -> socket.socket:
    """A connection to the server by way of the proxy. Raises FedhftError(PROXY_REFUSED) naming the proxy."""
    try:
        connection = socket.create_connection((proxy.host, proxy.port), _STEP_S)
    except OSError as error:
        raise proxies.refused(proxy, server, f"cannot be reached ({reason_of(error)})") from error
    try:
        proxies.open_tunnel(connection, proxy, server)
    except OSError as error:
        connection.close()
        raise proxies.refused(proxy, server, f"does not answer ({reason_of(error)})") from error
    except FedhftError:
        connection.close()
        raise
    return connection


def no_answer(faults: Sequence[str]) -> FedhftError:
    """No way leads to the server; each fault names its way."""
    reasons = ", ".join(dict.fromkeys(faults))
    return server_away(f"the server does not answer ({reasons}); check that it is running, and its address")


def server_away(message: str) -> FedhftError:
    """What no setting of this side can change."""
    return FedhftError(ErrorCode.SERVER_UNAVAILABLE, message)


def reason_of(error: OSError) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, TimeoutError):
        return f"no answer within {_STEP_S:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return str(getattr(error, "reason", None) or error.strerror or error)
