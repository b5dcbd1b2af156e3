"""When the clusterer is asked, and which memberships a round may use."""

from __future__ import annotations

from typing import Any

import pytest

from fedhft.records import MembershipRecord, VersionRecord
from fedhft.rounds.reclustering import usable_memberships, wanted_clusters, wants_memberships
from tests.light import light_job

ANCHOR = {"method": {"clusters": "auto"}}
UPDATE = {"method": {"preset": "fedhft-paper", "clusters": 2}, "clustering": {"warmup_rounds": 2}}
ONE = {"method": {"clusters": 1}}


def memberships(after_round: int, clusters: int = 2) -> MembershipRecord:
    return MembershipRecord(version=after_round + 1, round=after_round, clusters=clusters, rows={"a": (1.0, 0.0)})


@pytest.mark.parametrize(
    ("job", "after_round", "latest", "wanted"),
    [
        (ANCHOR, 0, None, True),
        (ANCHOR, 0, memberships(0), False),
        (ANCHOR, 1, memberships(0), True),
        (ANCHOR, 1, memberships(1), False),
        (ANCHOR, 1, memberships(2), False),
        (ANCHOR, 5, memberships(3), True),
        (UPDATE, 0, None, False),
        (UPDATE, 1, None, False),
        (UPDATE, 2, None, True),
        (UPDATE, 3, memberships(2), True),
        (UPDATE, 3, memberships(3), False),
        (ONE, 0, None, False),
        (ONE, 3, None, False),
    ],
)
def test_memberships_are_wanted_once_per_round_and_not_before_there_are_signatures(
    job: Any, after_round: int, latest: MembershipRecord | None, wanted: bool
) -> None:
    assert wants_memberships(light_job("j", **job), after_round, latest) is wanted


@pytest.mark.parametrize(("clusters", "wanted"), [("auto", 0), (1, 1), (3, 3)])
def test_auto_leaves_the_number_of_clusters_to_the_data(clusters: Any, wanted: int) -> None:
    assert wanted_clusters(light_job("j", method={"clusters": clusters})) == wanted


def version(clusters: int) -> VersionRecord:
    return VersionRecord(version=4, round=4, clusters=clusters)


def test_the_latest_memberships_are_used_where_the_version_has_their_clusters() -> None:
    latest = memberships(4)
    assert usable_memberships(latest, version(2)) is latest
    assert usable_memberships(latest, None) is latest  # version 0 can become any number of clusters
    assert usable_memberships(None, version(2)) is None


def test_memberships_that_came_too_late_give_way_to_uniform_ones() -> None:
    assert usable_memberships(memberships(4), version(1)) is None
    uniform = usable_memberships(memberships(4, clusters=2), version(3))
    assert uniform is not None
    assert (uniform.version, uniform.clusters, uniform.rows) == (0, 3, {})
