"""How many clusters from now on: what the signatures show, followed one step at a time.

`prediction.verdict` says J* for the data there is. It is asked anew when the set of (client, data) changed. The number
of clusters J follows it:

    the first verdict of a job holds at once
    up     towards J* > J
    down   towards J* < J, and only once the gain of J over J - 1 fell under 2/3 of what taking the last one took (.10;
           .067 from the third on)
    a move takes the same J* in two clusterings in a row, is by one cluster, and comes two rounds or more after another
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedhft.adapter import Float32, Float64
from fedhft.cluster_choice import ClusterChoice, TriedClusters
from fedhft.clustering.prediction import FIRST_GAIN, FURTHER_GAIN, Verdict, verdict
from fedhft.records import MembershipRecord

FALLEN = 2 / 3
"""Share of the gain that a cluster took under which it is given up."""
TIMES = 2
"""Clusterings in a row that must show the same number."""
HELD_ROUNDS = 2
"""Rounds between two moves."""


def choose(
    halves: Mapping[str, Float32],
    data: Mapping[str, str],
    latest: MembershipRecord | None,
    most: int,
    after_round: int,
) -> tuple[int, ClusterChoice]:
    """The number of clusters from now on, and how it came about.

    halves: client -> both halves' signatures one after the other, (2 D,); clients without do not vote. data: client ->
    what tells its data from other data. latest: the memberships in force, None at first.
    """
    present = latest.clusters if latest else 1
    known = latest.choice if latest else None
    if latest is None or known is None or latest.data != data or known.judged != present:
        found = verdict(*_matrices(halves), most, present)
        choice = _choice(found, present, known)
    else:
        choice = known
    undecided = known is None or not known.says_something
    if present == 1 and undecided and choice.says_something:
        moved = after_round if choice.found > 1 else None
        return choice.found, choice.model_copy(update={"candidate": 0, "times": 0, "moved_round": moved})
    return _followed(present, choice, after_round)


def _followed(present: int, choice: ClusterChoice, after_round: int) -> tuple[int, ClusterChoice]:
    wanted = _wanted(present, choice)
    if wanted == present:
        return present, choice.model_copy(update={"candidate": 0, "times": 0})
    times = min(TIMES, choice.times + 1) if choice.candidate == wanted else 1
    choice = choice.model_copy(update={"candidate": wanted, "times": times})
    rested = choice.moved_round is None or after_round - choice.moved_round >= HELD_ROUNDS
    if times < TIMES or not rested:
        return present, choice
    step = 1 if wanted > present else -1
    return present + step, choice.model_copy(update={"moved_round": after_round})


def _wanted(present: int, choice: ClusterChoice) -> int:
    if not choice.says_something or choice.found == present:
        return present
    if choice.found > present:
        return choice.found
    if choice.held is None:
        return present  # too few voters to try what there is
    took = FIRST_GAIN if present == 2 else FURTHER_GAIN
    return choice.found if choice.held < FALLEN * took else present


def _choice(found: Verdict, present: int, known: ClusterChoice | None) -> ClusterChoice:
    return ClusterChoice(
        found=found.clusters,
        judged=present,
        voters=found.voters,
        says_something=found.says_something,
        reliability=found.reliability,
        certainty=found.certainty,
        tried=tuple(TriedClusters(clusters=one.clusters, gain=one.gain, step=one.step, t=one.t) for one in found.tried),
        held=found.held,
        candidate=known.candidate if known else 0,
        times=known.times if known else 0,
        moved_round=known.moved_round if known else None,
    )


def _matrices(halves: Mapping[str, Float32]) -> tuple[Float64, Float64]:
    if not halves:
        return np.zeros((0, 1)), np.zeros((0, 1))
    both = np.array([halves[client] for client in sorted(halves)], np.float64)
    width = both.shape[1] // 2
    return both[:, :width], both[:, width:]
