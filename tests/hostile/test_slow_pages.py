"""Connections to the pages that send a byte now and then, and read nothing."""

from __future__ import annotations

import socket
import threading
import urllib.request

from fedhft.process.pages import MAX_CONNECTIONS, serve_pages


def status(address: str, path: str) -> int:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
        return int(answer.status)


def test_pages_are_answered_whatever_slow_connections_do() -> None:
    server = serve_pages(0, lambda: (True, ""))
    host, _, port = server.address.rpartition(":")
    slow = [socket.create_connection((host, int(port)), timeout=5) for _ in range(3 * MAX_CONNECTIONS)]
    done = threading.Event()

    def trickle() -> None:
        while not done.wait(0.05):
            for number, connection in enumerate(slow):
                try:
                    connection.send(b"G")
                except OSError:
                    slow[number] = socket.create_connection((host, int(port)), timeout=5)

    thread = threading.Thread(target=trickle, daemon=True)
    thread.start()
    try:
        for path in ("/metrics", "/healthz", "/readyz") * 5:
            assert status(server.address, path) == 200
    finally:
        done.set()
        thread.join(5)
        for connection in slow:
            connection.close()
        server.stop()
