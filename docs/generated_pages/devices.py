"""The devices that a demo's agents are held to."""

from __future__ import annotations

from fedhft.local.devices import CLASSES
from generated_pages.tables import table


def demo_devices() -> str:
    """The classes, one line each."""
    rows = [
        (
            device.name,
            f"{device.cpu:g}",
            f"{device.memory >> 20} MiB",
            f"{8e-6 * device.up:g} Mbit/s",
            f"{8e-6 * device.down:g} Mbit/s",
        )
        for device in CLASSES
    ]
    return table(("device", "share of a core", "memory", "up", "down"), rows)
