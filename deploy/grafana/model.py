"""What a dashboard is made of: queries, panels in rows, and the forms that queries take here.

`$federation` is the dashboard's choice of jobs, `$__rate_interval` Grafana's window for rates. A job's gauges are shown
by one aggregator at a time, and for a few seconds by two while a lease changes hands, so queries take the maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

F = 'federation=~"$federation"'
RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class Query:
    """One PromQL expression, and how its lines are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel: lines over time, or with `stat` the last values alone. width: of 24 columns."""

    title: str
    about: str
    queries: Sequence[Query]
    unit: str = "short"
    stat: bool = False
    width: int = 8


@dataclass(frozen=True)
class Dashboard:
    """One dashboard."""

    uid: str
    title: str
    about: str
    rows: Mapping[str, Sequence[Panel]]


def gauge_of(name: str, labels: str = "") -> str:
    """A job's gauge, by job and these labels."""
    by = ", ".join(["federation", *([labels] if labels else [])])
    return f"max by ({by}) ({name}{{{F}}})"


def rates(name: str, labels: str) -> str:
    """Rate of a counter of every process, by these labels."""
    return f"sum by ({labels}) (rate({name}{RATE}))"


def job_rate(name: str, labels: str = "") -> str:
    """Rate of a counter of jobs, by job and these labels."""
    by = ", ".join(["federation", *([labels] if labels else [])])
    return f"sum by ({by}) (rate({name}{{{F}}}{RATE}))"


def quantile(share: float, name: str, labels: str, selector: str = "") -> str:
    """This share of what a histogram observed was below it."""
    return f"histogram_quantile({share:g}, sum by ({labels}, le) (rate({name}_bucket{selector}{RATE})))"


def mean_of(name: str, labels: str, selector: str = "") -> str:
    """Mean of what a histogram observed."""
    by = f"sum by ({labels}) " if labels else "sum "
    return f"{by}(rate({name}_sum{selector}{RATE})) / {by}(rate({name}_count{selector}{RATE}))"
