"""Counts what an interface carries: `python -m tests.system.link_counter INTERFACE PORT PAGE`, as root.

TCP payload bytes of IPv4 packets from or to PORT, as the kernel hands them to an AF_PACKET socket: what crosses the
link, retransmissions included, headers not. On every line on standard input it prints a JSON object with these bytes
and the metrics page of the process under test, at http://PAGE, read at that moment; between the lines it reads the page
every second, so that connections which end meanwhile are counted there. It ends with its standard input.
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import sys
import threading
import urllib.request
from collections import Counter

_ALL, _IPV4, _TCP, _OUTGOING = 0x0003, 0x0800, 6, 4
_LONGEST = 1 << 16


class LinkCounter(threading.Thread):
    """A thread that counts from its construction on."""

    def __init__(self, interface: str, port: int) -> None:
        super().__init__(daemon=True)
        self.bytes: Counter[str] = Counter()
        self._port = port
        self._socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL)
        )  # others see no outgoing packets
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind((interface, _ALL))

    def run(self) -> None:
        """Count until the process ends."""
        while True:
            packet, address = self._socket.recvfrom(_LONGEST)
            if address[1] != _IPV4:
                continue
            length, port_in, port_out = payload(packet)
            if self._port in (port_in, port_out):
                self.bytes["sent" if address[2] == _OUTGOING else "received"] += length

    def lost(self) -> int:
        """Packets that did not fit the socket's buffer since the last call; 0 unless this thread was too slow."""
        statistics = self._socket.getsockopt(263, 6, 8)  # SOL_PACKET, PACKET_STATISTICS
        return int(struct.unpack("II", statistics)[1])


def payload(packet: bytes) -> tuple[int, int, int]:
    """TCP payload bytes of an IPv4 packet, source port, destination port; zeros for another protocol."""
    header = (packet[0] & 0xF) * 4
    if packet[9] != _TCP:
        return 0, 0, 0
    whole = struct.unpack_from("!H", packet, 2)[0]
    source, destination = struct.unpack_from("!HH", packet, header)
    offset = (packet[header + 12] >> 4) * 4
    return whole - header - offset, source, destination


def main(interface: str, port: str, page: str) -> None:
    """Answer lines until there are no more."""
    counter = LinkCounter(interface, int(port))
    counter.start()
    print(json.dumps({"listening": interface}), flush=True)
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            asked = bool(selector.select(timeout=1.0))
            if asked and not sys.stdin.readline():
                return
            try:
                with urllib.request.urlopen(f"http://{page}", timeout=5) as answer:
                    text = answer.read().decode()
            except OSError as error:
                text = f"# {error}"
            if asked:
                told = {"link": dict(counter.bytes), "lost": counter.lost(), "page": text}
                print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
