"""How a job's number of clusters came about: kept with its memberships, and shown."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class TriedClusters(BaseModel):
    """One number of clusters that was tried; figures as in `clustering.prediction`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clusters: int
    gain: float
    step: float
    """Gain over the best smaller number."""
    t: float
    """Student's t of that step."""


class ClusterChoice(BaseModel):
    """How the number of clusters came about, where a job leaves it to the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    found: int
    """What the signatures show."""
    judged: int
    """The number there was when they were asked."""
    voters: int
    says_something: bool
    """Whether there were voters enough whose halves agree."""
    reliability: float
    """Mean product of a client's two halves, in -1..1."""
    certainty: float
    """Of the larger of `found` and `judged` against one cluster, in 0..1."""
    tried: tuple[TriedClusters, ...] = ()
    held: float | None = None
    """Gain of `judged` clusters over one fewer."""
    candidate: int = 0
    """Number that the last clusterings asked for; 0 for none but that in force."""
    times: int = 0
    """How many in a row."""
    moved_round: int | None = None
    """Round after which the number changed last."""
