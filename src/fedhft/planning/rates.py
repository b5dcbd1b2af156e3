"""Rates of links as people write them."""

from __future__ import annotations

import re

_RATE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*(k|M|G)?(bit|B)/s")
_TIMES = {None: 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


def parse_rate(value: object) -> object:
    """Bytes per second of "2 Mbit/s", "300 kB/s" or a number; other types are left to whoever checks types.

    Raises ValueError for any other text.
    """
    if isinstance(value, str):
        match = _RATE.fullmatch(value.strip())
        if not match:
            raise ValueError(f'{value!r} is not a rate; write "2 Mbit/s" or "300 kB/s"')
        return float(match[1]) * _TIMES[match[2]] / (8.0 if match[3] == "bit" else 1.0)
    return value


def written_rate(rate: float) -> str:
    """Bytes per second for people, three digits: "2 Mbit/s"."""
    bits = 8.0 * rate
    for least, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bits >= 0.9995 * least:
            return f"{bits / least:.3g} {unit}" if bits < 999.5 * least else f"{bits / least:.0f} {unit}"
    return f"{bits:.3g} bit/s"
