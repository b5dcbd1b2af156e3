"""How a process shows that it is there: its pages, and the line that says where it listens."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from fedhft.process.pages import Readiness, serve_pages
from fedhft.process.settings import ProcessSettings
from fedhft.telemetry.registry import Process


def announce(**addresses: str | None) -> None:
    """Print `{"event": "listening", ...}` as one line on standard output, at once, for a parent process to read."""
    known = {name: address for name, address in addresses.items() if address is not None}
    print(json.dumps({"event": "listening", **known}), flush=True)


def _process_of(settings: ProcessSettings) -> Process:
    return Process(settings.program.removeprefix("fedhft_"))


@contextlib.contextmanager
def pages(settings: ProcessSettings, ready: Readiness) -> Iterator[str | None]:
    """Serve the pages; yields their host:port, or None when the settings name no port and there are no pages."""
    if settings.metrics_port is None:
        yield None
        return
    server = serve_pages(settings.metrics_port, ready, settings.metrics_host, process=_process_of(settings))
    try:
        yield server.address
    finally:
        server.stop()
