"""How the number of clusters follows the data (fedhft.clustering.choice)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from signing import halves

from fedhft.adapter import Float32
from fedhft.clustering.choice import choose
from fedhft.records import MembershipRecord


class Fleet:
    """Clients whose data are told by a word each, and the clusterings of them so far."""

    def __init__(self, labels: Sequence[int], seed: int = 0) -> None:
        self.latest: MembershipRecord | None = None
        self.round = 0
        self.mean(labels, seed)

    def mean(self, labels: Sequence[int], seed: int = 0, words: str = "a") -> None:
        """From now on clients have data in which their labels mean this."""
        first, second = halves(labels, seed)
        both = np.hstack([first, second]).astype(np.float32)
        self.halves: dict[str, Float32] = {f"c{i:02d}": row for i, row in enumerate(both)}
        self.data = {name: f"{words}{label}{seed}+" for name, label in zip(self.halves, labels, strict=True)}

    def cluster(self) -> int:
        """The clustering after the next round."""
        clusters, choice = choose(self.halves, self.data, self.latest, 4, self.round)
        self.latest = MembershipRecord(
            version=self.round + 1, round=self.round, clusters=clusters, rows={}, data=self.data, choice=choice
        )
        self.round += 1
        return clusters


def test_the_first_verdict_holds_at_once() -> None:
    assert Fleet([0, 1, 2] * 4).cluster() == 3
    assert Fleet([0] * 8).cluster() == 1


def test_a_verdict_stands_while_data_stay_the_same() -> None:
    fleet = Fleet([0, 1] * 4)
    assert [fleet.cluster() for _ in range(5)] == [2] * 5
    assert fleet.latest is not None
    assert fleet.latest.choice is not None
    assert fleet.latest.choice.times == 0


def test_a_third_group_is_followed_when_seen_twice() -> None:
    fleet = Fleet([0, 1] * 4)
    assert [fleet.cluster() for _ in range(3)] == [2, 2, 2]
    fleet.mean([0, 1, 2] * 4)
    assert [fleet.cluster() for _ in range(4)] == [2, 3, 3, 3]


def test_two_steps_are_two_rounds_apart() -> None:
    fleet = Fleet([0] * 12)
    assert [fleet.cluster() for _ in range(3)] == [1, 1, 1]
    fleet.mean([0, 1, 2] * 4)
    assert [fleet.cluster() for _ in range(6)] == [1, 2, 2, 3, 3, 3]


def test_groups_that_come_to_mean_the_same_are_merged_one_step_at_a_time() -> None:
    fleet = Fleet([0, 1, 2] * 4)
    assert [fleet.cluster() for _ in range(2)] == [3, 3]
    fleet.mean([0] * 12)
    assert [fleet.cluster() for _ in range(6)] == [3, 2, 2, 1, 1, 1]


def test_a_change_that_does_not_last_moves_nothing() -> None:
    fleet = Fleet([0, 1] * 4)
    before = [fleet.cluster() for _ in range(3)]
    fleet.mean([0] * 8)
    seen = fleet.cluster()
    fleet.mean([0, 1] * 4, words="b")
    assert [*before, seen, fleet.cluster(), fleet.cluster()] == [2] * 6


def test_clusters_between_the_two_thresholds_are_kept_and_not_made() -> None:
    fleet = Fleet([0, 1] * 4)
    assert fleet.cluster() == 2
    assert fleet.latest is not None
    assert fleet.latest.choice is not None
    doubtful = fleet.latest.choice.model_copy(update={"found": 1, "held": 0.12, "judged": 2})
    fleet.latest = fleet.latest.model_copy(update={"choice": doubtful})
    assert [fleet.cluster() for _ in range(4)] == [2] * 4
    lost = doubtful.model_copy(update={"held": 0.09})
    fleet.latest = fleet.latest.model_copy(update={"choice": lost})
    assert [fleet.cluster() for _ in range(3)] == [2, 1, 1]


def test_when_too_few_vote_the_number_stays() -> None:
    fleet = Fleet([0, 1] * 4)
    assert [fleet.cluster() for _ in range(3)] == [2] * 3
    fleet.mean([0, 1, 0])
    assert [fleet.cluster() for _ in range(3)] == [2] * 3
    fleet.halves = {}
    fleet.data = {"c00": "old"}
    assert [fleet.cluster() for _ in range(3)] == [2] * 3


def test_a_job_that_began_with_too_few_voters_decides_at_once_when_there_are_enough() -> None:
    fleet = Fleet([0, 1, 0])
    assert [fleet.cluster() for _ in range(3)] == [1] * 3
    fleet.mean([0, 1] * 3)
    assert fleet.cluster() == 2


def test_memberships_of_an_earlier_release_are_followed_from_where_they_are() -> None:
    fleet = Fleet([0, 1, 2] * 4)
    fleet.latest = MembershipRecord(version=1, round=0, clusters=2, rows={})
    fleet.round = 1
    assert [fleet.cluster() for _ in range(3)] == [2, 3, 3]
