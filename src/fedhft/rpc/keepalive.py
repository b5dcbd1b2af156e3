"""Keep-alive settings of both ends from one value, so that a client never pings faster than its server allows.

A server pinged more often than it permits answers with GOAWAY, and the connection is lost; hence the server's limit is
half the client's interval.
"""

from __future__ import annotations

from dataclasses import dataclass

Options = list[tuple[str, int | str]]
"""gRPC channel arguments."""


@dataclass(frozen=True)
class KeepAlive:
    """How a silent connection is kept open, and a broken one noticed."""

    interval_s: float = 30.0
    """A client without traffic pings this often; home routers forget a connection after a minute or so."""
    answer_s: float = 10.0
    """A ping unanswered for this long means the connection is dead."""

    def client_options(self) -> Options:
        """Channel arguments of a client."""
        return [
            ("grpc.keepalive_time_ms", round(self.interval_s * 1000)),
            ("grpc.keepalive_timeout_ms", round(self.answer_s * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]

    def server_options(self) -> Options:
        """Channel arguments of a server whose clients use `client_options`."""
        return [
            ("grpc.http2.min_ping_interval_without_data_ms", round(self.interval_s * 500)),
            ("grpc.keepalive_permit_without_calls", 1),
            # The server looks for dead peers too, half as often: clients behind NAT can vanish silently.
            ("grpc.keepalive_time_ms", round(self.interval_s * 2000)),
            ("grpc.keepalive_timeout_ms", round(self.answer_s * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
        ]
