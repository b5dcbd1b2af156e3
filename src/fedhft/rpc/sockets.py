"""Bytes that this process's TCP connections carried, as counted by the kernel.

Linux keeps per connection the payload bytes acknowledged by the peer and received from it (`struct tcp_info`,
include/uapi/linux/tcp.h): HTTP/2 and TLS framing included, retransmissions and IP headers not. Opening and closing a
connection count as one byte each on the side that does it, because SYN and FIN take a sequence number.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
import threading
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

_DESCRIPTORS = Path("/proc/self/fd")
_TCP_INFO_BYTES = 256
_COUNTERS = struct.Struct("=QQ")
_COUNTERS_OFFSET = 120
"""Offset of tcpi_bytes_acked, followed by tcpi_bytes_received; fixed since Linux 4.1."""
_LISTEN = 10
"""TCP_LISTEN, in the first byte of tcp_info."""


class SocketBytes(NamedTuple):
    """TCP payload bytes since the meter first saw each connection's start."""

    sent: int
    received: int


class SocketMeter:
    """Adds up the bytes of this process's TCP connections, closed ones included. Thread-safe.

    Counts connections whose peer's port is in `remote_ports` or whose own port is in `local_ports`; all of them when
    both are None. What a connection carried between its last sample and its close is lost: sample before closing a
    channel, and now and then in between (the metrics page does at every scrape).
    """

    def __init__(self, remote_ports: Collection[int] | None = None, local_ports: Collection[int] | None = None) -> None:
        self._remote = None if remote_ports is None else frozenset(remote_ports)
        self._local = None if local_ports is None else frozenset(local_ports)
        self._lock = threading.Lock()
        self._open: dict[int, SocketBytes] = {}
        self._closed = SocketBytes(0, 0)
        self.supported = _kernel_counts()

    def sample(self) -> SocketBytes:
        """Totals now; zeros where not `supported`. Never shrinks."""
        if not self.supported:
            return SocketBytes(0, 0)
        with self._lock:
            seen: dict[int, SocketBytes] = {}
            for descriptor in _socket_descriptors():
                reading = self._read(descriptor)
                if reading is not None:
                    inode, carried = reading
                    seen[inode] = carried
            for inode, carried in self._open.items():
                now = seen.get(inode)
                # Fewer bytes than before: the inode number was reused for a new socket meanwhile.
                if now is None or now.sent < carried.sent or now.received < carried.received:
                    self._closed = _sum(self._closed, carried)
            self._open = seen
            total = self._closed
            for carried in seen.values():
                total = _sum(total, carried)
            return total

    def _read(self, descriptor: int) -> tuple[int, SocketBytes] | None:
        # A duplicate keeps referring to this socket even if its owner closes the descriptor meanwhile.
        try:
            copy = os.dup(descriptor)
        except OSError:
            return None
        try:
            if not stat.S_ISSOCK(os.fstat(copy).st_mode):
                return None
            inode = os.fstat(copy).st_ino
            duplicate = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            return None
        with duplicate:
            try:
                if duplicate.family not in (socket.AF_INET, socket.AF_INET6) or duplicate.type != socket.SOCK_STREAM:
                    return None
                info = duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                # A known connection counts to the end, even when its peer is gone and has no address any more.
                if info[0] == _LISTEN or (inode not in self._open and not self._wanted(duplicate)):
                    return None
            except OSError:
                return None
        return inode, SocketBytes(*_COUNTERS.unpack_from(info, _COUNTERS_OFFSET))

    def _wanted(self, connection: socket.socket) -> bool:
        if self._remote is None and self._local is None:
            return True
        if self._remote is not None and connection.getpeername()[1] in self._remote:
            return True
        return self._local is not None and connection.getsockname()[1] in self._local


def _socket_descriptors() -> list[int]:
    found = []
    for entry in _DESCRIPTORS.iterdir():
        try:
            if entry.readlink().name.startswith("socket:"):
                found.append(int(entry.name))
        except OSError:
            continue  # closed meanwhile
    return found


def _sum(left: SocketBytes, right: SocketBytes) -> SocketBytes:
    return SocketBytes(left.sent + right.sent, left.received + right.received)


def _kernel_counts() -> bool:
    """Whether this kernel reports the counters."""
    if not sys.platform.startswith("linux") or not _DESCRIPTORS.is_dir():
        return False
    with socket.socket() as probe:
        try:
            info = probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return False
    return len(info) >= _COUNTERS_OFFSET + _COUNTERS.size
