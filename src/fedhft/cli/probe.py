"""`fedhft probe`: asks a process whether it is ready; for images and units, which have no curl."""

from __future__ import annotations

import enum
import http.client
import os
from typing import Annotated

import typer

from fedhft.documents import parse_json
from fedhft.errors import ErrorCode, FedhftError
from fedhft.rpc.address import parse_address, parse_host

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - replaced by loopback
_LONGEST_ANSWER = 64 * 1024


class Page(enum.StrEnum):
    """What is asked."""

    READY = "ready"
    HEALTHY = "healthy"


def probe(
    address: Annotated[
        str,
        typer.Argument(
            help="host:port of the process's pages; without it, FEDHFT_METRICS_HOST and FEDHFT_METRICS_PORT.",
            show_default=False,
        ),
    ] = "",
    page: Annotated[
        Page, typer.Option(help="ready: it can do its work. healthy: it runs, whatever it waits for.")
    ] = Page.READY,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.", min=0.1, max=60.0)] = 3.0,
) -> None:
    """Ask a process on this machine whether it is ready (or healthy). Exit code 0: yes."""
    host, port = _address(address)
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    status, reason = _ask(host, port, where, "/readyz" if page is Page.READY else "/healthz", timeout)
    if status != http.client.OK:
        raise FedhftError(ErrorCode.SERVER_UNAVAILABLE, f"{where} is not {page.value}: {reason or f'status {status}'}")
    typer.echo(f"{where} is {page.value}")


def _address(given: str) -> tuple[str, int]:
    host, port = os.environ.get("FEDHFT_METRICS_HOST", ""), os.environ.get("FEDHFT_METRICS_PORT", "")
    if given:
        host, number = parse_address(given, "address")
    elif port:
        host = parse_host(host or "127.0.0.1", "FEDHFT_METRICS_HOST")
        _, number = parse_address(f"127.0.0.1:{port}", "FEDHFT_METRICS_PORT")
    else:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "address", "", "is required", "give host:port, or set FEDHFT_METRICS_PORT"
        )
    host = host.strip("[]")
    return _ANY.get(host, host), number


def _ask(host: str, port: int, where: str, path: str, timeout_s: float) -> tuple[int, str]:
    """Status of the page, and the reason in it."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(_LONGEST_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise FedhftError(
            ErrorCode.SERVER_UNAVAILABLE, f"{where} does not answer ({error or type(error).__name__})"
        ) from error
    finally:
        connection.close()
    try:
        told = parse_json(body.decode("utf-8", "replace"), "the page", ErrorCode.SERVER_UNAVAILABLE)
    except FedhftError:  # another program's page
        return answer.status, ""
    return answer.status, str(told.get("reason", "")) if isinstance(told, dict) else ""
