"""How much of a published average one client makes up."""

from __future__ import annotations

import pytest

from fedhft.records import Participant
from fedhft.rounds.shares import cluster_masses, largest_share
from tests.contract.federation import ALICE, BOB, CAROL, PLAN, round_record


def part(samples: int, *memberships: float) -> Participant:
    return Participant(samples=samples, plan=PLAN, memberships=memberships)


def test_the_share_is_that_of_the_cluster_in_which_it_is_largest() -> None:
    parts = {ALICE: part(10, 0.9, 0.1), BOB: part(30, 0.1, 0.9), CAROL: part(60, 0.0, 1.0)}
    masses = cluster_masses(round_record(participants=parts))
    assert masses == pytest.approx((12.0, 88.0))
    assert largest_share(parts[ALICE], masses) == pytest.approx(9 / 12)
    assert largest_share(parts[CAROL], masses) == pytest.approx(60 / 88)


def test_a_client_alone_in_its_cluster_is_all_of_it() -> None:
    parts = {ALICE: part(1, 1.0, 0.0), BOB: part(10**6, 0.0, 1.0)}
    masses = cluster_masses(round_record(participants=parts))
    assert [largest_share(one, masses) for one in parts.values()] == [1.0, 1.0]


def test_what_a_trimmed_mean_cuts_off_makes_every_share_in_the_rest_larger() -> None:
    parts = {ALICE: part(10, 1.0), BOB: part(10, 1.0), CAROL: part(80, 1.0)}
    masses = cluster_masses(round_record(participants=parts, clusters=1))
    assert largest_share(parts[ALICE], masses, trim=0.3) == pytest.approx(0.25)
    assert largest_share(parts[CAROL], masses, trim=0.3) == 1.0
