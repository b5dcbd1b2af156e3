"""What is on whose page: every series is declared with the processes that expose it, and no other page has it.

So an aggregator's page has no agent's series at zero, and a gauge of the store is missing on an agent, which has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import product
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

from fedhft.errors import ErrorCode

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter and histogram, which nothing here reads


class Process(StrEnum):
    """A kind of process that has a page."""

    AGGREGATOR = "aggregator"
    CLUSTERER = "clusterer"
    AGENT = "agent"


AGGREGATOR = (Process.AGGREGATOR,)
CLUSTERER = (Process.CLUSTERER,)
SERVICES = (Process.AGGREGATOR, Process.CLUSTERER)
AGENT = (Process.AGENT,)
ALL = (*SERVICES, *AGENT)

REGISTRY = CollectorRegistry()
"""Every series, whoever exposes it."""
PAGES = {process: CollectorRegistry() for process in Process}
"""The series of each kind of process."""
EXPOSED_BY: dict[Collector, tuple[Process, ...]] = {}
"""Who exposes a family."""

CALL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Seconds, for what takes about as long as a call."""
CODES = [code.value for code in ErrorCode]

C = TypeVar("C", bound=Collector)


def exposed(collector: C, by: tuple[Process, ...]) -> C:
    """Put a family on the pages of these processes."""
    EXPOSED_BY[collector] = by
    for registry in (REGISTRY, *(PAGES[process] for process in by)):
        registry.register(collector)
    return collector


def counter(name: str, documentation: str, labels: Sequence[str] = (), *, by: tuple[Process, ...]) -> Counter:
    """A counter; its series ends in `_total`."""
    return exposed(Counter(name, documentation, labels, registry=None), by)


def gauge(name: str, documentation: str, labels: Sequence[str] = (), *, by: tuple[Process, ...]) -> Gauge:
    """A gauge."""
    return exposed(Gauge(name, documentation, labels, registry=None), by)


def histogram(
    name: str, documentation: str, labels: Sequence[str] = (), *, buckets: Sequence[float], by: tuple[Process, ...]
) -> Histogram:
    """A histogram."""
    return exposed(Histogram(name, documentation, labels, buckets=buckets, registry=None), by)


def known(family: Counter | Gauge | Histogram, **values: Sequence[str]) -> None:
    """Show the series of these label values from the start, so that rates are right from the first event on."""
    for combination in product(*values.values()):
        family.labels(**dict(zip(values, combination, strict=True)))


def render(process: Process | None = None) -> bytes:
    """The page of one kind of process, in the Prometheus text format; of all together without one."""
    return generate_latest(REGISTRY if process is None else PAGES[process])


exposed(ProcessCollector(registry=None), ALL)
