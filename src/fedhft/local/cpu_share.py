"""Processes held to shares of a core, as on slower machines.

Where this process may set quotas of the kernel's (`cpu_quota`), they do it. Else, as without root, each process has a
budget that fills at its share of a core and is spent by the CPU time of all its threads. Who has spent more than it had
is stopped (SIGSTOP) until the budget is positive again. In the long run a process gets its share; within `PERIOD_S` it
may be off by as much as it can use in that time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from fedhft.local.cpu_quota import CpuQuotas

PERIOD_S = 0.02
"""How often budgets are looked at."""
_BURST_S = 0.1
"""Wall seconds that an idle process can save up its share for."""

log = logging.getLogger(__name__)


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far. Raises OSError when it is not there (any more)."""
    # The clock id that clock_getcpuclockid(3) makes of a process id on Linux.
    return time.clock_gettime((~pid << 3) | 2)


@dataclass
class _Held:
    share: float
    used: float
    free: float
    until: Callable[[], bool]
    budget: float = 0.0
    stopped: bool = False
    quota: float | None = None
    """The share that the kernel holds it to by now."""


class CpuShares:
    """Holds processes of ours to their shares, from `hold` until `close`, which lets all of them run again.

    quotas: the kernel's, where they can be had (`cpu_quotas`); None to stop and continue processes from here.
    """

    def __init__(self, quotas: CpuQuotas | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._quotas = quotas
        self._clock = clock
        self._held: dict[int, _Held] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu-shares", daemon=True)

    def hold(self, pid: int, share: float, free: float = 0.0, until: Callable[[], bool] = lambda: False) -> None:
        """Hold a process to a share of one core, or to another than so far; one that has ended is left alone.

        free: CPU seconds that it may use before that, as to import its libraries; until: says that it is through with
        what was free, asked whenever budgets are looked at.
        """
        with self._lock:
            known = self._held.get(pid)
            if known is not None:
                known.share = share
                return
            with contextlib.suppress(OSError):
                self._held[pid] = _Held(share, cpu_seconds(pid), free, until)
            if self._held and not self._thread.is_alive() and not self._ended.is_set():
                self._thread.start()

    def close(self) -> None:
        """Let every process run again, and stop looking."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            for pid, held in self._held.items():
                if held.stopped:
                    _signal(pid, signal.SIGCONT)
                if self._quotas is not None:
                    self._quotas.release(pid)
            self._held.clear()

    def _run(self) -> None:
        before = self._clock()
        while not self._ended.wait(PERIOD_S):
            now = self._clock()
            with self._lock:
                for pid in [pid for pid, held in self._held.items() if not self._look(pid, held, now - before)]:
                    del self._held[pid]
                    if self._quotas is not None:
                        self._quotas.release(pid)
            before = now

    def _look(self, pid: int, held: _Held, passed: float) -> bool:
        """Settle a process's budget after so many seconds, or see to its quota; False when it has ended."""
        try:
            used = cpu_seconds(pid)
        except OSError:
            return False
        spent = used - held.used
        held.used = used
        if held.free and held.until():
            held.free = 0.0
        held.free, spent = max(0.0, held.free - spent), max(0.0, spent - held.free)
        if self._quotas is not None and not held.free and self._has_quota(self._quotas, pid, held):
            return True
        held.budget = min(held.budget + held.share * passed, held.share * _BURST_S) - spent
        if held.stopped != (held.budget < 0.0):
            held.stopped = not held.stopped
            return _signal(pid, signal.SIGSTOP if held.stopped else signal.SIGCONT)
        return True

    def _has_quota(self, quotas: CpuQuotas, pid: int, held: _Held) -> bool:
        """Whether the kernel holds the process to its share. Where it refuses, nobody is held by it from now on."""
        if held.quota == held.share:
            return True
        try:
            quotas.hold(pid, held.share)
        except ProcessLookupError:
            return True  # seen to when next looked at
        except OSError as error:
            log.warning("no quotas of CPU time: processes are stopped and continued", extra={"error": str(error)})
            self._refused()
            return False
        held.quota = held.share
        return True

    def _refused(self) -> None:
        """From now on processes are stopped and continued."""
        quotas, self._quotas = self._quotas, None
        for pid, held in self._held.items():
            held.quota = None
            if quotas is not None:
                quotas.release(pid)


def _signal(pid: int, number: signal.Signals) -> bool:
    """Whether the process was there to be told."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
