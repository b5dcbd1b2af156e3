"""Which blobs a client fetches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedhft.adapter import SHARED
from fedhft.records import VersionRecord
from fedhft.rounds.fetching import Fetch, Held, scopes_needed
from fedhft.rounds.fetching import fetches as fetches_of
from fedhft.stored_blob import StoredBlob


def version(number: int, delta: int, snapshot: int, scopes: tuple[str, ...] = ("shared", "cluster-0")) -> VersionRecord:
    return VersionRecord(
        version=number,
        round=number,
        clusters=1,
        deltas={scope: StoredBlob(digest=f"d{number}{scope}", size=delta) for scope in scopes},
        snapshots={scope: StoredBlob(digest=f"s{number}{scope}", size=snapshot) for scope in scopes},
    )


def fetches(
    versions: Mapping[int, VersionRecord], target: int, scopes: Sequence[str], held: Mapping[str, int], **options: bool
) -> tuple[Fetch, ...]:
    """What an agent fetches that takes whole scopes alone."""
    found = fetches_of(versions, target, scopes, Held(held), 1, **options)
    assert found.depth == 0
    return found.blobs


VERSIONS = {n: version(n, delta=10, snapshot=25) for n in range(1, 6)}


def test_nothing_is_fetched_for_the_start() -> None:
    assert fetches(VERSIONS, 0, ["shared"], {}) == ()


def test_a_client_one_version_behind_takes_the_delta() -> None:
    assert [f.version for f in fetches(VERSIONS, 5, ["shared"], {"shared": 4})] == [5]
    assert not fetches(VERSIONS, 5, ["shared"], {"shared": 4})[0].snapshot


def test_a_client_far_behind_takes_the_snapshot_when_that_is_cheaper() -> None:
    found = fetches(VERSIONS, 5, ["shared"], {"shared": 2})
    assert found == (Fetch("shared", 5, True, VERSIONS[5].snapshots["shared"]),)
    assert [f.version for f in fetches(VERSIONS, 5, ["shared"], {"shared": 3})] == [4, 5]


def test_a_client_behind_the_kept_versions_takes_the_snapshot() -> None:
    kept = {n: version(n, delta=1, snapshot=1000) for n in (4, 5)}
    assert [f.snapshot for f in fetches(kept, 5, ["shared"], {"shared": 2})] == [True]
    assert [f.snapshot for f in fetches(kept, 5, ["shared"], {"shared": 3})] == [False, False]


def test_a_client_ahead_of_the_version_takes_the_snapshot() -> None:
    assert [f.snapshot for f in fetches(VERSIONS, 4, ["shared"], {"shared": 5})] == [True]


def test_a_scope_that_did_not_change_costs_nothing() -> None:
    still = VersionRecord(version=2, round=2, clusters=1, deltas={}, snapshots=VERSIONS[1].snapshots)
    assert fetches({1: VERSIONS[1], 2: still}, 2, ["shared"], {"shared": 1}) == ()


def test_a_cluster_that_split_off_is_fetched_whole() -> None:
    split = VersionRecord(
        version=2,
        round=2,
        clusters=2,
        deltas={"cluster-0": StoredBlob(digest="d", size=1)},
        snapshots={
            "cluster-0": StoredBlob(digest="s0", size=50),
            "cluster-1": StoredBlob(digest="s1", size=50),
        },
    )
    found = fetches({1: version(1, 1, 50), 2: split}, 2, ["cluster-0", "cluster-1"], {"cluster-0": 1})
    assert [(f.scope, f.snapshot) for f in found] == [("cluster-0", False), ("cluster-1", True)]


def test_a_cluster_that_split_off_at_the_first_version_is_fetched_whole_and_then_by_deltas() -> None:
    split = VersionRecord(
        version=1,
        round=1,
        clusters=2,
        deltas={"cluster-0": StoredBlob(digest="d", size=1)},
        snapshots={scope: StoredBlob(digest=f"s-{scope}", size=50) for scope in ("cluster-0", "cluster-1")},
    )
    after = version(2, delta=1, snapshot=50, scopes=("cluster-0", "cluster-1"))
    assert [f.snapshot for f in fetches({1: split}, 1, ["cluster-1"], {})] == [True]
    assert [f.snapshot for f in fetches({1: split, 2: after}, 2, ["cluster-1"], {})] == [True]
    assert [f.snapshot for f in fetches({1: split, 2: after}, 2, ["cluster-1"], {"cluster-1": 1})] == [False]


def test_a_cluster_that_was_regrouped_is_fetched_whole_by_who_holds_what_it_was() -> None:
    scopes = ("shared", "cluster-0", "cluster-1")
    versions = {n: version(n, 10, 100, scopes) for n in (1, 2, 3)}
    versions[2] = versions[2].model_copy(update={"renewed": ("cluster-1",)})
    held = dict.fromkeys(scopes, 1)
    found = {fetch.scope: (fetch.version, fetch.snapshot) for fetch in fetches(versions, 3, scopes, held)}
    assert found["cluster-1"] == (3, True)
    assert found["cluster-0"] == (3, False)
    assert [one.version for one in fetches(versions, 3, ("cluster-1",), {"cluster-1": 2})] == [3]


def test_clusters_without_served_weight_are_not_needed() -> None:
    assert scopes_needed((0.7, 0.0, 0.3)) == (SHARED, "cluster-0", "cluster-2")


def test_of_a_warm_start_everybody_takes_version_0_first() -> None:
    begun = VersionRecord(version=0, round=0, clusters=1, snapshots={"shared": StoredBlob(digest="s", size=9)})
    (first,) = fetches({0: begun}, 0, ["shared"], {}, warm=True)
    assert (first.version, first.snapshot) == (0, True)
    assert fetches({0: begun}, 0, ["shared"], {"shared": 0}, warm=True) == ()
    assert fetches({0: begun}, 0, ["cluster-0"], {}, warm=True) == ()


def test_of_a_warm_start_deltas_are_for_those_who_hold_version_0() -> None:
    assert [f.version for f in fetches(VERSIONS, 1, ["shared"], {"shared": 0}, warm=True)] == [1]
    assert [f.snapshot for f in fetches(VERSIONS, 1, ["shared"], {}, warm=True)] == [True]
    assert [f.snapshot for f in fetches(VERSIONS, 1, ["shared"], {})] == [False]
