"""The go-ahead of a client stream: initial metadata that says the server is ready to read.

gRPC's flow control stops a sender only after its window is full, and every stopped stream keeps that window in the
server's memory. A sender that waits for the go-ahead costs an open call and nothing else, as with HTTP's 100-continue.
"""

from __future__ import annotations

from collections.abc import Iterable

_KEY = "fedhft-go-ahead"

GO_AHEAD: tuple[tuple[str, str], ...] = ((_KEY, "1"),)
"""What the server sends."""


def is_go_ahead(metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
    """Whether initial metadata has the go-ahead; that of a call refused before its turn is empty."""
    return metadata is not None and any(key == _KEY for key, _ in metadata)
