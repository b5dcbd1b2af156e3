"""How much memory this process may still take: what the machine has left, and what its control groups leave it.

A container sees the memory of the whole machine in /proc/meminfo; what ends it is the limit of its control group, or of
one of the groups above.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.control_groups import groups_1, groups_2, text_of

LEAST_MARGIN = 64 << 20
"""Bytes left to the rest of the machine, or of the container."""


@dataclass(frozen=True)
class FreeMemory:
    """Bytes that can be taken before something is killed or swapped, and what sets that bound."""

    bytes: int
    bound_by: str
    """"MemAvailable", or the file that has the limit of a control group."""

    @property
    def budget(self) -> int:
        """What an agent may plan with: less an eighth, at least LEAST_MARGIN, but never less than half."""
        return max(self.bytes // 2, self.bytes - max(self.bytes // 8, LEAST_MARGIN))


def free_memory(root: Path = Path("/")) -> FreeMemory:
    """The narrowest bound, from the files under `root`. Raises FedhftError(INVALID_ARGUMENT) where there are none."""
    found = [*_machine(root), *_version_2(root), *_version_1(root)]
    if not found:
        raise FedhftError(
            ErrorCode.INVALID_ARGUMENT,
            "--memory = auto: this system does not say how much memory is free; write a size such as 2GiB",
        )
    return min(found, key=lambda bound: bound.bytes)


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that this process may use in all: the narrowest limit of its control groups, else the machine's memory.

    0 where the system does not say.
    """
    match = re.search(r"^MemTotal:\s+(\d+) kB$", text_of(root / "proc/meminfo"), re.M)
    found = [int(match[1]) * 1024] if match else []
    for group, limit_file in (
        *((group, "memory.max") for group in groups_2(root)),
        *((group, "memory.limit_in_bytes") for group in groups_1(root, "memory")),
    ):
        if (limit := text_of(group / limit_file).strip()).isdecimal():
            found.append(int(limit))
    return min(found, default=0)


def _machine(root: Path) -> Iterator[FreeMemory]:
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", text_of(root / "proc/meminfo"), re.M)
    if match:
        yield FreeMemory(int(match[1]) * 1024, "MemAvailable")


def _version_2(root: Path) -> Iterator[FreeMemory]:
    for group in groups_2(root):
        yield from _bound(group, "memory.max", "memory.current", "inactive_file")


def _version_1(root: Path) -> Iterator[FreeMemory]:
    for group in groups_1(root, "memory"):
        yield from _bound(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _bound(group: Path, limit_file: str, used_file: str, reclaimable: str) -> Iterator[FreeMemory]:
    """What a group may still take. Its cached file pages count as used, but go when the memory is needed."""
    limit, used = text_of(group / limit_file).strip(), text_of(group / used_file).strip()
    if limit.isdecimal() and used.isdecimal():  # version 1 writes a number near 2**63 for none
        cached = re.search(rf"^{reclaimable} (\d+)$", text_of(group / "memory.stat"), re.M)
        taken = max(0, int(used) - (int(cached[1]) if cached else 0))
        yield FreeMemory(max(0, int(limit) - taken), str(group / limit_file))
