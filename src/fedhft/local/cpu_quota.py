"""Shares of a core that the kernel itself gives: a control group (cgroup, version 1 or 2) with a quota per process.

It takes root, or a group that was handed to this user. A process with a quota runs a little in every tenth of a second,
as on a slower machine, and need not be watched.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from fedhft.process.control_groups import groups_1, groups_2, text_of

_PERIOD_US = 100_000
"""Microseconds that a quota is for, as the kernel has it by default."""
_LEAST_US = 1000
"""The kernel's least quota; a smaller share has a longer period."""
_MOST_US = 1_000_000
"""The kernel's longest period."""

_MEMBERS = "cgroup.procs"
_LIMITS = ("memory.max", "memory.high", "pids.max", "cpu.max")

log = logging.getLogger(__name__)


def quota_of(share: float) -> tuple[int, int]:
    """Microseconds of CPU time, and of the period in which they may be used, for a share of one core."""
    period = min(_MOST_US, max(_PERIOD_US, round(_LEAST_US / share))) if share else _MOST_US
    return max(_LEAST_US, round(share * period)), period


class CpuQuotas:
    """A group below `above` for each process held, which goes back to the group `home` when it is let go.

    write: sets the quota of a group's folder, microseconds in microseconds.
    """

    def __init__(self, above: Path, home: Path, write: Callable[[Path, int, int], None]) -> None:
        self._above = above
        self._home = home
        self._write = write
        self._name = f"fedhft-{os.getpid()}-{secrets.token_hex(3)}"  # two containers may have the same process ids

    def hold(self, pid: int, share: float) -> None:
        """Hold all threads of a process to a share of one core, or to another than so far.

        Raises OSError where the kernel refuses; ProcessLookupError when the process has ended.
        """
        group = self._group(pid)
        group.mkdir(exist_ok=True)
        self._write(group, *quota_of(share))
        _put(group / _MEMBERS, f"{pid}\n")

    def release(self, pid: int) -> None:
        """Let a process go, with those it has started, as far as they still run, and remove its group."""
        group = self._group(pid)
        if not group.exists():
            return
        try:
            for member in text_of(group / _MEMBERS).split():
                with contextlib.suppress(ProcessLookupError):
                    _put(self._home / _MEMBERS, f"{member}\n")
            group.rmdir()
        except OSError as error:
            log.warning("a control group could not be removed", extra={"group": str(group), "error": str(error)})

    def work(self) -> bool:
        """Whether groups can be made here, and have quotas; tried without a process."""
        trial = self._group(0)
        try:
            trial.mkdir(exist_ok=True)
            try:
                self._write(trial, *quota_of(0.0))
            finally:
                trial.rmdir()
        except OSError:
            return False
        return True

    def _group(self, pid: int) -> Path:
        return self._above / f"{self._name}-{pid}"


def cpu_quotas(root: Path = Path("/")) -> CpuQuotas | None:
    """Quotas in the innermost group around this process that can have them; None where there is none.

    In version 2 a group that has processes has no groups with quotas below it: a root shell finds them further out, as
    far as no group on the way has limits, which processes would leave. root: folder that has proc and sys.
    """
    for groups, write in ((groups_2(root), _write_2), (groups_1(root, "cpu"), _write_1)):
        there = [group for group in groups if (group / _MEMBERS).is_file()]
        for above in there:
            quotas = CpuQuotas(above, there[0], write)
            if quotas.work():
                return quotas
            if any(text_of(above / limit).split()[:1] not in ([], ["max"]) for limit in _LIMITS):
                break
    return None


def _write_2(group: Path, quota: int, period: int) -> None:
    _put(group / "cpu.max", f"{quota} {period}\n")


def _write_1(group: Path, quota: int, period: int) -> None:
    _put(group / "cpu.cfs_quota_us", "-1\n")  # or the new period may not fit the old quota
    _put(group / "cpu.cfs_period_us", f"{period}\n")
    _put(group / "cpu.cfs_quota_us", f"{quota}\n")


def _put(file: Path, text: str) -> None:
    """Write to a file that must be there: the kernel makes them."""
    with file.open("r+", encoding="ascii") as opened:
        opened.truncate()
        opened.write(text)
