"""Memory, random numbers and name of a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of a device's memory. peak: most that this process's tensors took since `forget_peak`."""

    free: int
    total: int
    peak: int


def device_memory(device: torch.device) -> DeviceMemory | None:
    """What the device says of its memory; None where it says nothing, as the CPU."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(int(free), int(total), peak_bytes(device))
    if device.type == "mps":
        total = int(torch.mps.recommended_max_memory())
        return DeviceMemory(total - int(torch.mps.driver_allocated_memory()), total, peak_bytes(device))
    return None


def gpu_uuid(device: torch.device) -> str | None:
    """What NVIDIA's libraries know a GPU by, whatever place it has here; None for other devices."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else str(uuid)


def forget_peak(device: torch.device) -> None:
    """Begin to measure the peak anew, where the device can."""
    reset = getattr(_module(device), "reset_peak_memory_stats", None)
    if reset is not None:
        reset(device)


def peak_bytes(device: torch.device) -> int:
    """Most bytes that tensors took on the device since `forget_peak`; 0 where it does not say.

    MPS keeps no peak, but gives no memory back while it is in use: there it is what the driver has given so far.
    """
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    peak = getattr(_module(device), "max_memory_allocated", None)
    return 0 if peak is None else int(peak(device))


@contextmanager
def random_numbers_apart(device: torch.device) -> Iterator[None]:
    """Inside, the generators of the CPU and of the device may be seeded; afterwards they are as they were."""
    module = _module(device)
    if device.type == "cpu" or not hasattr(module, "get_rng_state"):
        with torch.random.fork_rng([]):
            yield
        return
    if device.type != "mps":
        with torch.random.fork_rng([device], device_type=device.type):
            yield
        return
    before = torch.mps.get_rng_state()  # of the one device that there is
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        torch.mps.set_rng_state(before)


def wide(values: torch.Tensor) -> torch.Tensor:
    """The values where they can be summed in float64: on their device, but for MPS, which has none."""
    return values.cpu() if values.device.type == "mps" else values


def _module(device: torch.device) -> Any:
    """torch.cuda, say; None for a device without a module, as `meta`, and for the CPU."""
    return None if device.type == "cpu" else getattr(torch, device.type, None)
