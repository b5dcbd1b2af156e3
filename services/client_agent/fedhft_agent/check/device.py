"""Check of where the agent would train."""

from __future__ import annotations

from collections.abc import Iterator

from fedhft.errors import FedhftError
from fedhft.process.device_name import AUTO
from fedhft_agent.check.findings import Finding, ok, warning
from fedhft_agent.check.scene import Scene


def check_device(scene: Scene) -> Iterator[Finding]:
    """Find the device, and have it multiply two matrices."""
    from fedhft.training.device.choice import accelerators, description, usable_device

    name = scene.settings.device
    device = usable_device(name)
    scene.device = str(device)
    there = accelerators()
    if name == AUTO and device.type == "cpu" and there:
        try:
            usable_device(there[0])
        except FedhftError as error:
            detail, _, fix = error.message.rpartition("; ")
            yield warning("device", f"training would be on the CPU: {detail}", fix)
            return
    yield ok("device", description(device))
