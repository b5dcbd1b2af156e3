"""What is read when a page is: the peak memory of this process, the bytes of its connections, its release."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

import fedhft


def peak_memory_bytes() -> int:
    """Peak resident set of this process, bytes."""
    # VmHWM belongs to this program image; ru_maxrss survives exec, so a small child of a large parent would report the
    # parent's peak.
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class SocketBytesCollector(Collector):
    """Exposes what the kernel counted on this process's connections, by direction: sent or received."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sample: Callable[[], tuple[int, int]] | None = None

    def measure(self, sample: Callable[[], tuple[int, int]]) -> None:
        """Use `sample` from now on: it returns (sent, received), bytes, both growing."""
        self._sample = sample

    def collect(self) -> Iterable[Metric]:
        """One counter family; empty until something is measured."""
        family = CounterMetricFamily(self._name, "TCP payload bytes, from the kernel's counters.", labels=["direction"])
        if self._sample is not None:
            sent, received = self._sample()
            family.add_metric(["sent"], sent)
            family.add_metric(["received"], received)
        yield family


class BuildInfo(Collector):
    """Exposes release and protocol version as labels of a series that is always 1."""

    def collect(self) -> Iterable[Metric]:
        """One info family."""
        family = InfoMetricFamily("fedhft_build", "Release and protocol version of this process; always 1.")
        family.add_metric([], {"version": fedhft.__version__, "protocol": str(fedhft.PROTOCOL_VERSION)})
        yield family
