"""Why a server cannot be talked to: what each side holds, the code, and the words; and an HTTP proxy to put between."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fedhft.errors import ErrorCode
from fedhft.rpc.tls import TlsSettings
from tests.certificates import Certificates

NO_PROXY = dict.fromkeys(("grpc_proxy", "https_proxy", "http_proxy", "no_proxy", "no_grpc_proxy"), "")
"""Variables of a process that dials directly."""


class Parties(NamedTuple):
    """What both sides hold."""

    own: Certificates
    alien: Certificates
    """Another authority of the same trust domain."""

    @property
    def server(self) -> TlsSettings:
        return self.own.of("aggregator")

    @property
    def client(self) -> TlsSettings:
        return self.own.of("agent/ash")


class Cause(NamedTuple):
    server: Callable[[Parties], TlsSettings | None]
    client: Callable[[Parties], TlsSettings | None]
    code: ErrorCode
    words: tuple[str, ...]
    host: str = "127.0.0.1"
    """By which the client calls the server."""
    check: str = "tls"
    """Which check of `fedhft agent check` finds it."""


CAUSES = {
    "another authority": Cause(
        lambda p: p.server,
        lambda p: TlsSettings(p.client.certificate, p.client.key, p.alien.of("agent/ash").authority),
        ErrorCode.SERVER_UNTRUSTED,
        (
            "is not signed by --tls-authority",
            "alien",
            "its issuer is 'fedhft authority'",
            "give --tls-authority the ca",
        ),
    ),
    "a participant's certificate": Cause(
        lambda p: p.own.of("operator/olga"),
        lambda p: p.client,
        ErrorCode.SERVER_UNTRUSTED,
        ("is not one of a server", "fedhft certs issue aggregator"),
    ),
    "expired": Cause(
        lambda p: p.own.expired("aggregator"),
        lambda p: p.client,
        ErrorCode.SERVER_CERTIFICATE_EXPIRED,
        ("has expired since 20", "renew it at the server: fedhft certs renew"),
    ),
    "not yet valid": Cause(
        lambda p: p.own.to_come("aggregator"),
        lambda p: p.client,
        ErrorCode.SERVER_CERTIFICATE_NOT_YET_VALID,
        ("is not yet valid until 20", "this machine's clock (20", "compare the clocks"),
    ),
    "another name": Cause(
        lambda p: p.own.named("aggregator", "agg.clinics.example", "10.0.0.7"),
        lambda p: p.client,
        ErrorCode.SERVER_NAME_MISMATCH,
        ("is for agg.clinics.example, 10.0.0.7, not for 127.0.0.1", "fedhft certs renew aggregator --host 127.0.0.1"),
    ),
    "no certificate of ours": Cause(
        lambda p: p.server,
        lambda p: TlsSettings(authority=p.client.authority),
        ErrorCode.CLIENT_CERTIFICATE_REFUSED,
        ("requires a certificate of its callers, and none was given", "give --tls-certificate and --tls-key"),
    ),
    "an expired certificate of ours": Cause(
        lambda p: p.server,
        lambda p: p.own.expired("agent/ash"),
        ErrorCode.CLIENT_CERTIFICATE_REFUSED,
        ("--tls-certificate (", "has expired since 20", "fedhft certs renew"),
        check="certificate",
    ),
    "a foreign certificate of ours": Cause(
        lambda p: p.server,
        lambda p: TlsSettings(p.alien.of("agent/ash").certificate, p.alien.of("agent/ash").key, p.client.authority),
        ErrorCode.CLIENT_CERTIFICATE_REFUSED,
        ("does not accept --tls-certificate", "issued by 'fedhft authority'", "that the server's --tls-authority has"),
    ),
    "a server in plain text": Cause(
        lambda p: None,
        lambda p: p.client,
        ErrorCode.SERVER_WITHOUT_TLS,
        ("does not use TLS, and this side does", "give the server --tls-certificate and --tls-key"),
    ),
    "a client in plain text": Cause(
        lambda p: p.server,
        lambda p: None,
        ErrorCode.SERVER_NEEDS_TLS,
        ("uses TLS, and this side does not", "give --tls-authority"),
    ),
    "a client in plain text, by a name with two addresses": Cause(
        lambda p: p.server,
        lambda p: None,
        ErrorCode.SERVER_NEEDS_TLS,
        ("at 127.0.0.1 uses TLS, and this side does not",),
        host="localhost",
    ),
    "another certificate's key": Cause(
        lambda p: p.server,
        lambda p: TlsSettings(p.client.certificate, p.own.of("agent/elm").key, p.client.authority),
        ErrorCode.TLS_KEY_MISMATCH,
        ("agent/ash/tls.crt: does not go with the key", "agent/elm/tls.key", "give the pair that was issued together"),
        check="certificate",
    ),
    "a certificate that is not PEM": Cause(
        lambda p: p.server,
        lambda p: TlsSettings(in_der(p.client.certificate), p.client.key, p.client.authority),
        ErrorCode.TLS_FILE_NOT_PEM,
        ("tls.crt.der: is not PEM", "openssl x509 -inform der -in"),
        check="certificate",
    ),
    "a key that is not PEM": Cause(
        lambda p: p.server,
        lambda p: TlsSettings(p.client.certificate, not_a_key(p.client.key), p.client.authority),
        ErrorCode.TLS_FILE_NOT_PEM,
        ("tls.key.der: is not PEM", "openssl pkey -inform der -in"),
        check="certificate",
    ),
    "an authority that is not PEM": Cause(
        lambda p: p.server,
        lambda p: TlsSettings(p.client.certificate, p.client.key, in_der(p.client.authority)),
        ErrorCode.TLS_FILE_NOT_PEM,
        ("ca.crt.der: is not PEM",),
        check="certificate",
    ),
    "a proxy": Cause(
        lambda p: p.server,
        lambda p: p.client,
        ErrorCode.PROXY_REFUSED,
        ("which the variable http_proxy names, answers 'HTTP/1.1 407", "put agg.example into no_proxy"),
        host="agg.example",
        check="address",
    ),
}


def in_der(path: Path | None) -> Path:
    """A certificate as Windows tools write it."""
    assert path is not None
    converted = path.with_name(f"{path.name}.der")
    converted.write_bytes(ssl.PEM_cert_to_DER_cert(path.read_text(encoding="ascii")))
    return converted


def not_a_key(path: Path | None) -> Path:
    """A private file without a line of PEM."""
    assert path is not None
    other = path.with_name(f"{path.name}.der")
    other.touch(0o600)
    other.write_bytes(b"0\x82\x04\xbe\x02\x01")
    return other


def make_parties(folder: Path) -> Parties:
    """Two authorities and whatever they issue."""
    return Parties(Certificates(folder / "own"), Certificates(folder / "alien"))


def files(tls: TlsSettings | None) -> list[str]:
    given = [] if tls is None else [("certificate", tls.certificate), ("key", tls.key), ("authority", tls.authority)]
    return [text for name, path in given if path is not None for text in (f"--tls-{name}", str(path))]


def job_list(server: str, tls: TlsSettings | None = None, **environment: str) -> tuple[int, str]:
    """`fedhft job list` as a process: exit code, standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "fedhft.cli.main", "job", "list", "--server", server, *files(tls)],
        env={**os.environ, **NO_PROXY, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


class Proxy:
    """An HTTP proxy that gives one answer to every CONNECT and, if that is 200, a way to `behind`."""

    def __init__(self, answer: str, behind: str = "") -> None:
        self.asked: list[str] = []
        self._answer = answer
        self._behind = behind
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=[self._listener.accept()[0]], daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), near:
            request = b""
            while b"\r\n\r\n" not in request:
                request += near.recv(4096)
            self.asked.append(request.decode())
            near.sendall(f"HTTP/1.1 {self._answer}\r\n\r\n".encode())
            if not self._behind:
                return
            host, port = self._behind.split(":")
            with socket.create_connection((host, int(port))) as far:
                back = threading.Thread(target=pour, args=[far, near], daemon=True)
                back.start()
                pour(near, far)
                back.join()


def pour(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
