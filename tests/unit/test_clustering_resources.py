"""Clusters by data and devices (fedhft.clustering.resources)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from signing import halves

from fedhft.adapter import Float32
from fedhft.clustering.choice import choose
from fedhft.clustering.resources import halves_with_resources, profiles_of, with_resources
from fedhft.coordination.memberships import publish_memberships
from fedhft.errors import FedhftError
from fedhft.ids import ClientId, JobId
from fedhft.job import parse_job
from fedhft.planning.estimates import Capacity
from fedhft.records import ClientRecord
from fedhft.store.in_memory import InMemoryStore

figures = st.lists(st.tuples(*[st.none() | st.floats(1e-6, 1e9) for _ in range(3)]), min_size=1, max_size=12).map(
    lambda rows: {f"c{i:02}": row for i, row in enumerate(rows)}
)


def signed(labels: Sequence[int]) -> dict[str, Float32]:
    both = np.hstack(halves(labels, 0)).astype(np.float32)
    return {f"c{i:02d}": row for i, row in enumerate(both)}


def clusters_of(voting: dict[str, Float32]) -> int:
    return choose(voting, dict.fromkeys(voting, "a+"), None, 4, 0)[0]


@given(figures)
def test_profiles_are_of_bounded_length_and_zero_where_nothing_is_told(
    told: dict[str, tuple[float | None, ...]],
) -> None:
    found = np.array(list(profiles_of(told).values()))
    assert np.isfinite(found).all()
    assert float((found**2).sum(axis=1).mean()) <= 1.0 + 1e-9
    for own, row in zip(told.values(), found, strict=True):
        assert all(value == 0.0 for value, given in zip(row, own, strict=True) if given is None)


@given(figures, st.floats(0.1, 10.0))
def test_units_change_nothing(told: dict[str, tuple[float | None, ...]], unit: float) -> None:
    scaled = {name: tuple(None if one is None else unit * one for one in row) for name, row in told.items()}
    for name, profile in profiles_of(told).items():
        assert profiles_of(scaled)[name] == pytest.approx(profile, abs=1e-6)


def test_one_false_figure_hardly_moves_the_others() -> None:
    told = {f"c{i:02}": (0.01 * 10 ** (i % 2), None, None) for i in range(20)}
    honest = profiles_of(told)
    lied = profiles_of({**told, "z": (1e-30, None, None)})
    apart = [float(abs(found["c01"] - found["c00"])[0]) for found in (honest, lied)]
    assert apart[1] > 0.6 * apart[0]
    assert np.linalg.norm(lied["z"]) < 3.0


def test_alike_devices_leave_clusters_by_data_as_they_are() -> None:
    voting = signed([0, 1] * 6)
    alike = profiles_of(dict.fromkeys(voting, (0.1, 1000000.0, 1000000.0)))
    assert clusters_of(halves_with_resources(voting, alike)) == clusters_of(voting) == 2


def test_two_kinds_of_device_are_two_clusters_where_data_are_alike() -> None:
    voting = signed([0] * 12)
    kinds = profiles_of({name: ((0.01, 1e7, 1e7), (0.2, 1e5, 1e5))[i % 2] for i, name in enumerate(voting)})
    assert clusters_of(voting) == 1
    assert clusters_of(halves_with_resources(voting, kinds)) == 2


def test_a_half_that_says_nothing_still_says_nothing() -> None:
    voting = {"a": np.concatenate([np.ones(4), np.zeros(4)]).astype(np.float32)}
    joined = halves_with_resources(voting, {"a": np.array([1.0, 0.0])})["a"]
    assert joined.shape == (12,)
    assert not joined[6:].any()
    assert not joined[4:6].any()


def test_signatures_grow_by_the_figures_and_have_unit_length() -> None:
    found = with_resources({"a": np.array([3.0, 4.0], np.float32), "b": np.array([1.0, 0.0], np.float32)}, {
        "a": np.array([0.5, 0.5]), "b": np.array([-0.5, -0.5]),
    })  # fmt: skip
    assert {name: one.shape for name, one in found.items()} == {"a": (4,), "b": (4,)}
    assert [float(np.linalg.norm(one)) for one in found.values()] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    "method",
    [{"preset": "fedhft"}, {"preset": "legend"}, {"preset": "fedhft", "allocation": "capacity", "clusters": 1}],
)
def test_a_job_whose_clients_tell_no_devices_cannot_cluster_by_them(method: dict[str, Any]) -> None:
    raw = {"name": "j", "model": {"name": "m"}, "task": {"labels": ["a", "b"]}, "clustering": {"by": "data+resources"}}
    with pytest.raises(FedhftError, match='set these, or by = "data"'):
        parse_job({**raw, "method": method})
    assert (
        parse_job({**raw, "method": {"preset": "fedhft", "allocation": "capacity"}}).clustering.by == "data+resources"
    )


@pytest.mark.parametrize(("by", "clusters"), [("data", 1), ("data+resources", 2)])
async def test_memberships_follow_what_a_job_clusters_by(by: str, clusters: int) -> None:
    method = {"preset": "fedhft", "allocation": "capacity"}
    raw = {"name": "j", "model": {"name": "m"}, "task": {"labels": ["a", "b"]}, "clustering": {"by": by}}
    store, job = InMemoryStore(), JobId("j")
    await store.create_job(job, parse_job({**raw, "method": method}).canonical())
    for place, (name, both) in enumerate(signed([0] * 12).items()):
        first, second = np.split(both.astype(np.float64), 2)
        whole = (first + second) / np.linalg.norm(first + second)
        record = ClientRecord(
            client=name, tier="standard", samples=50, data_digest="0" * 64, joined_ms=1,
            signature=tuple(whole.tolist()), halves=tuple(both.tolist()),
        )  # fmt: skip
        await store.enroll(ClientId(name), 0, "test")
        await store.join(job, record)
        step = 0.01 if place % 2 else 0.2
        await store.note_capacity(job, ClientId(name), Capacity(forward=step, backward=step, up=1e5 / step, down=1e5))
    published = await publish_memberships(store, job, 0, 0)
    assert published.clusters == clusters
