"""Devices that the agents of a local federation are held to: a share of a core, a memory budget, a link.

A file of them is as `planning.device_kinds` says, and each kind has:

    [devices.phone]
    cpu = 0.1                      # share of one core
    memory = "400MiB"              # budget of the agent (its --memory); left out: what this machine has
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from fedhft.job_values import Size
from fedhft.planning.device_kinds import DeviceKind, read_kinds


class LocalDevice(DeviceKind):
    """One kind of device."""

    cpu: float = Field(1.0, gt=0, le=1)
    memory: Size = 0

    def share(self, number: int) -> float:
        """The share of a core that it has in a round."""
        return min(1.0, self.cpu / self.slowness(number))


STRONG = LocalDevice(name="strong", cpu=0.7, memory=1200 << 20, up=20e6 / 8, down=50e6 / 8)
MIDDLING = LocalDevice(name="middling", cpu=0.35, memory=700 << 20, up=5e6 / 8, down=20e6 / 8)
WEAK = LocalDevice(name="weak", cpu=0.18, memory=400 << 20, up=1e6 / 8, down=5e6 / 8)
CLASSES = (STRONG, MIDDLING, WEAK)
"""What a demo's clients are unless a file says otherwise."""


def read_devices(path: Path, clients: Sequence[str]) -> Mapping[str, LocalDevice]:
    """Devices of all clients from a TOML file. Raises FedhftError(INVALID_ARGUMENT), see `read_kinds`."""
    return read_kinds(path, clients, LocalDevice, "fedhft.local.devices")
