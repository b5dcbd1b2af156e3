"""Starting and stopping a service: its options, the line that says where it listens, the signal that ends it.

Every option `--some-name` can also be given as environment variable `FEDHFT_SOME_NAME`; the command line wins.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhft.rpc.tls import TlsSettings
from fedhft.telemetry.logs import LOG_FORMATS, LOG_LEVELS


def announce(**addresses: str) -> None:
    """Print `{"event": "listening", ...}` as one line on standard output, at once: where a parent process finds us."""
    print(json.dumps({"event": "listening", **addresses}), flush=True)


async def wait_for_signal() -> signal.Signals:
    """Wait for SIGTERM or SIGINT and return it. A second one ends the process as if nothing waited."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[signal.Signals] = loop.create_future()
    signals = (signal.SIGTERM, signal.SIGINT)

    def note(number: signal.Signals) -> None:
        if not received.done():
            received.set_result(number)

    for number in signals:
        loop.add_signal_handler(number, note, number)
    try:
        return await received
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


@dataclass(frozen=True)
class ServiceOptions:
    """Options that every service has."""

    listen: str
    """host:port of gRPC; port 0 picks a free one."""
    redis: str
    """URL of the store."""
    metrics_host: str
    metrics_port: int
    """Where the pages are served; port 0 picks a free one."""
    log_format: str
    log_level: str
    grace_s: float
    """Seconds that running calls get when the service stops."""
    tls: TlsSettings | None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> ServiceOptions:
        """Pick the shared options from parsed arguments. Raises FedhftError(INVALID_ARGUMENT) for half a TLS pair."""
        given = (arguments.tls_certificate, arguments.tls_key, arguments.tls_authority)
        return cls(
            listen=arguments.listen,
            redis=arguments.redis,
            metrics_host=arguments.metrics_host,
            metrics_port=arguments.metrics_port,
            log_format=arguments.log_format,
            log_level=arguments.log_level,
            grace_s=arguments.grace,
            tls=TlsSettings(*given) if any(given) else None,
        )


class OptionParser(argparse.ArgumentParser):
    """Arguments with defaults from the environment."""

    def __init__(self, prog: str, description: str, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self._environment = os.environ if environment is None else environment

    def option(
        self,
        name: str,
        default: Any,
        help: str,
        type: Callable[[str], Any] = str,
        choices: Sequence[str] | None = None,
    ) -> None:
        """Add `--name`; its default is FEDHFT_NAME where that is set and not empty, and is parsed like the option."""
        variable = "FEDHFT_" + name.upper().replace("-", "_")
        given = self._environment.get(variable)
        if given and choices is not None and given not in choices:
            # argparse checks choices of the command line only.
            self.error(f"{variable} = {given!r}: choose one of {', '.join(choices)}")
        self.add_argument(
            f"--{name}",
            default=given or default,
            type=type,
            choices=choices,
            help=f"{help} [default: {default}; {variable}]".replace("%", "%%"),
        )


def service_parser(prog: str, description: str, listen: str, metrics_port: int) -> OptionParser:
    """A parser that knows what every service takes; add the service's own options with `option`."""
    parser = OptionParser(prog, description)
    parser.option("listen", listen, "address of the gRPC server, host:port; port 0 picks a free one")
    parser.option("redis", "redis://127.0.0.1:6379/0", "store: redis://host:port/db or unix:///path")
    parser.option("metrics-host", "127.0.0.1", "host of /metrics, /healthz and /readyz")
    parser.option("metrics-port", metrics_port, "port of these pages; 0 picks a free one", type=int)
    parser.option("log-format", "json", "format of logs on standard error", choices=LOG_FORMATS)
    parser.option("log-level", "info", "least level of logs", choices=LOG_LEVELS)
    parser.option("grace", 10.0, "seconds running calls get when the service is told to stop", type=float)
    parser.option("tls-certificate", None, "PEM certificate chain of this server", type=Path)
    parser.option("tls-key", None, "PEM private key of this server", type=Path)
    parser.option("tls-authority", None, "PEM certificates that clients must be signed by", type=Path)
    return parser
