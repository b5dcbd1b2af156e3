"""Which blobs stay after a round."""

from __future__ import annotations

import pytest

from fedhft.records import UpdateRecord, VersionRecord
from fedhft.rounds.retention import KEPT_SNAPSHOTS, KEPT_VERSIONS, oldest_kept, retention
from fedhft.stored_blob import BandBlobs, StoredBlob


def blob(name: str) -> StoredBlob:
    return StoredBlob(digest=name, size=1)


def version(number: int, **changes: dict[str, StoredBlob]) -> VersionRecord:
    blobs = {
        "deltas": {"shared": blob(f"delta-{number}")},
        "snapshots": {"shared": blob(f"snapshot-{number}")},
        "server_state": {"residual/shared": blob(f"residual-{number}")},
    }
    return VersionRecord(version=number, round=number, clusters=1, **{**blobs, **changes})  # type: ignore[arg-type]


def test_deltas_of_bands_stay_as_deltas_do_and_snapshots_of_bands_with_the_last_two_versions() -> None:
    def banded(number: int) -> VersionRecord:
        bands = BandBlobs(
            depths=(1, 4),
            deltas={"shared": {1: blob(f"delta-{number}-1")}},
            snapshots={"shared": {depth: blob(f"snapshot-{number}-{depth}") for depth in (1, 4)}},
        )
        return version(number).model_copy(update={"bands": bands})

    found = retention(5, [banded(number) for number in (2, 3, 4, 5)], [banded(1)], [], best=2)
    assert {f"delta-{number}-1" for number in (2, 3, 4, 5)} <= found.kept
    assert {f"snapshot-{number}-{depth}" for number in (4, 5) for depth in (1, 4)} <= found.kept
    assert {"delta-1-1", "snapshot-1-1", "snapshot-2-4", "snapshot-3-1"} <= found.dropped
    assert "snapshot-2" in found.kept


def update(digest: str) -> UpdateRecord:
    return UpdateRecord(client="a", round=9, base_version=8, digest=digest, size=1, samples=1, report=b"")


@pytest.mark.parametrize(("latest", "oldest"), [(1, 1), (8, 1), (9, 2), (20, 13)])
def test_the_records_of_the_last_versions_are_kept(latest: int, oldest: int) -> None:
    assert KEPT_VERSIONS == 8
    assert oldest_kept(latest) == oldest


def test_deltas_stay_for_every_kept_version_and_whole_versions_for_the_last_two() -> None:
    assert KEPT_SNAPSHOTS == 2
    found = retention(5, [version(number) for number in (3, 4, 5)], [version(2)], [update("u")])
    assert found.kept == {
        "delta-3", "delta-4", "delta-5", "snapshot-4", "snapshot-5", "residual-4", "residual-5",
    }  # fmt: skip
    assert found.dropped == {"u", "delta-2", "snapshot-2", "residual-2", "snapshot-3", "residual-3"}


def test_what_a_kept_version_still_holds_is_never_dropped_with_an_older_one() -> None:
    """Blobs are named by their content, so versions may share one: a scope that did not change is the same bytes."""
    same = {"snapshots": {"shared": blob("same")}}
    found = retention(5, [version(3, **same), version(4, **same), version(5, **same)], [version(2, **same)], [])
    assert "same" in found.kept
    assert "same" not in found.dropped


def test_an_update_whose_bytes_are_a_published_blob_keeps_them_and_an_empty_one_has_none() -> None:
    found = retention(1, [version(1)], [], [update("delta-1"), update("")])
    assert "delta-1" in found.kept
    assert found.dropped == frozenset()


def test_the_best_version_stays_whole_for_people_and_without_what_only_the_next_fold_needs() -> None:
    found = retention(9, [version(number) for number in (1, 7, 8, 9)], [version(6)], [], best=1)
    assert "snapshot-1" in found.kept
    assert {"residual-1", "snapshot-7", "snapshot-6"} <= found.dropped
    assert retention(9, [version(number) for number in (1, 7, 8, 9)], [], [], best=9).dropped >= {"snapshot-1"}
