"""What was measured of clients' devices, as columns of tables for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fedhft.cli.output import Column
from fedhft.planning.rates import written_rate

if TYPE_CHECKING:
    from fedhft.v1 import capacity_pb2

NONE = "-"
PASSES = "ms of a layer and batch, forward + backward"
ENERGY = "J of a round"


def short(value: float) -> str:
    """Three digits, or all before the point; what rounds to nothing in the third place after it is 0."""
    if abs(value) < 0.0005:
        return "0"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def passes(device: capacity_pb2.Capacity) -> str:
    """Milliseconds of a layer and batch, forward + backward."""
    return f"{short(device.forward_ms)} + {short(device.backward_ms)}" if device.forward_ms else NONE


def energy(device: capacity_pb2.Capacity) -> str:
    """Joules of its machine in a round."""
    return short(device.energy_joules) if device.energy_joules else NONE


def device_columns(
    devices: Sequence[capacity_pb2.Capacity], less: int
) -> list[tuple[Column, Callable[[capacity_pb2.Capacity], str]]]:
    """Columns, each with what it says of a device; those in which no device has anything are not among them.

    less: as in `Column`.
    """
    offered: list[tuple[str, Callable[[capacity_pb2.Capacity], str]]] = [
        (PASSES, passes),
        ("up", lambda device: written_rate(device.up) if device.up else NONE),
        ("down", lambda device: written_rate(device.down) if device.down else NONE),
        ("deepest", lambda device: str(device.deepest) if device.deepest else NONE),
        (ENERGY, energy),
    ]
    return [(Column(head, less), tell) for head, tell in offered if any(tell(device) != NONE for device in devices)]
