"""When a call that waits in vain ends: at a turn of its client, so that those who came together ask apart."""

from __future__ import annotations

import zlib


def turn_of(client: str, every_s: float, begun_s: float) -> float:
    """The client's first turn after `begun_s`, at most `every_s` seconds later; both on one monotonic clock.

    Thousands of agents start waiting at the same moment: after a restart of the server, after a round. If each waited
    equally long they would ask again at the same moment, too, for as long as they wait. So a client's turns come every
    `every_s` seconds, shifted by a share of it that its name decides: its first wait is shorter, all others whole.
    """
    if every_s <= 0:
        return begun_s
    shift = every_s * zlib.crc32(client.encode()) / 2**32
    return begun_s + every_s - (begun_s - shift) % every_s
