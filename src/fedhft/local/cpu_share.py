"""Processes held to shares of a core, as on slower machines, without being root.

Each process has a budget that fills at its share of a core and is spent by the CPU time of all its threads. Who has
spent more than it had is stopped (SIGSTOP) until the budget is positive again. In the long run a process gets its
share; within `PERIOD_S` it may be off by as much as it can use in that time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

PERIOD_S = 0.02
"""How often budgets are looked at."""
_BURST_S = 0.1
"""Wall seconds that an idle process can save up its share for."""


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


class CpuShares:
    """Holds processes of ours to their shares, from `hold` until `close`, which lets all of them run again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
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
            self._held.clear()

    def _run(self) -> None:
        before = self._clock()
        while not self._ended.wait(PERIOD_S):
            now = self._clock()
            with self._lock:
                for pid in [pid for pid, held in self._held.items() if not _look(pid, held, now - before)]:
                    del self._held[pid]
            before = now


def _look(pid: int, held: _Held, passed: float) -> bool:
    """Settle a process's budget after so many seconds; False when it has ended."""
    try:
        used = cpu_seconds(pid)
    except OSError:
        return False
    spent = used - held.used
    held.used = used
    if held.free and held.until():
        held.free = 0.0
    held.free, spent = max(0.0, held.free - spent), max(0.0, spent - held.free)
    held.budget = min(held.budget + held.share * passed, held.share * _BURST_S) - spent
    if held.stopped != (held.budget < 0.0):
        held.stopped = not held.stopped
        return _signal(pid, signal.SIGSTOP if held.stopped else signal.SIGCONT)
    return True


def _signal(pid: int, number: signal.Signals) -> bool:
    """Whether the process was there to be told."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
