"""Ranks by tier: which jobs may have them, what the plan and its messages say, and what an update then has."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_examples import BIG, UPDATE, delta_of

from fedhft.adapter import MaskedDelta, MaskedMatrix, Part
from fedhft.aggregation.direction import Measured
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec, load_canonical, parse_job
from fedhft.plan import AdapterPlan
from fedhft.planning.fold_memory import fold_bytes
from fedhft.planning.memory import trained_values
from fedhft.planning.tiers import plans, tier_of
from fedhft.records import Participant, Phase, PlanTooLarge, RoundRecord
from fedhft.rounds.acceptance import check_update, largest_update, largest_values
from fedhft.training.feedback import carried_after, carries_error, with_carried
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode, encode
from tests.light import light_schema

quick = settings(deadline=None, max_examples=40)
THIRDS = {"large": {"min_memory": 2000}, "middle": {"rank": 4, "min_memory": 1000}, "small": {"rank": 2}}
PLAN = AdapterPlan("t", 6, 1.0, 1.0, 0, train_a=True, train_b=True)


def spec(preset: str | dict[str, Any] = "hetlora", **sections: Any) -> JobSpec:
    raw = {"name": "j", "model": {"name": "m"}, "task": {"labels": ["a", "b"]}, "method": preset, "tiers": THIRDS}
    return parse_job({**raw, **sections})


def first_columns(delta: MaskedDelta, rank: int) -> MaskedDelta:
    return MaskedDelta(
        {
            key: replace(matrix, cols=min(rank, matrix.cols), values=np.ascontiguousarray(matrix.values[:, :rank]))
            if key.part in (Part.A, Part.B)
            else matrix
            for key, matrix in delta
        }
    )


# -- the job


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"preset": "fedit"}, r'tiers.middle.rank = 4 with method.combine = "factors": set combine = "padded"'),
        ({"preset": "local"}, r'tiers.middle.rank = 4 with method.combine = "none"'),
        ({"preset": "fedsa-lora"}, r'tiers.middle.rank = 4 with method.combine = "only-a"'),
        (
            {"preset": "fedhft", "combine": "trimmed-mean"},
            r'tiers.middle.rank = 4 with method.combine = "trimmed-mean"',
        ),
        (
            {"allocation": "uniform"},
            r'tiers.middle.rank = 4 with method.allocation = "uniform": set allocation = "tiers"',
        ),
        ({"allocation": "capacity"}, r'with method.allocation = "capacity"'),
        ({"clusters": 2}, r'clusters = 2 with combine = "padded": works with clusters = 1 alone'),
        (
            {"preset": "flexlora", "mask": "gradient"},
            r'mask = "gradient" with combine = "svd": works with mask = "none"',
        ),
        (
            {"preset": "fedsa-lora", "share_a": True},
            r'share_a = true with combine = "only-a": works with share_a = false',
        ),
        ({"trained": "alternate"}, r'trained = "alternate" with combine = "padded": works with trained = "both" alone'),
        (
            {"preset": "flexlora", "server": "adam"},
            r'server = "adam" with combine = "svd": works with server = "plain"',
        ),
        ({"start": "restart"}, r'combine = "padded" with start = "restart": products and restart only work together'),
        ({"trained": "all-weights"}, r'combine = "padded" with trained = "all-weights": there are no factors'),
    ],
)
def test_a_method_that_cannot_have_what_it_is_given_says_what_to_set(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(FedhftError, match=said) as refused:
        spec({"preset": "hetlora", **changes})
    assert refused.value.code is ErrorCode.INVALID_JOB


@pytest.mark.parametrize(
    ("preset", "sections", "said"),
    [
        ("flexlora", {"wire": {"down": "int8"}}, r'wire.down = "int8" with combine = "svd".*set down = "fp32"'),
        ("flexlora", {"server": {"eta": 0.5}}, r'server.eta = 0.5 with method.combine = "svd".*set eta = 1'),
        ("hetlora", {"tiers": {"t": {"rank": 9}}}, r"tiers.t.rank = 9: the adapter has rank 8; write at most that"),
        ("hetlora", {"tiers": {"t": {"density": 0.5}}}, r'tiers.t.density = 0.5 with method.combine = "padded"'),
        ("flexlora", {"tiers": {"t": {"density": 0.5}}}, r'tiers.t.density = 0.5 with method.combine = "svd"'),
    ],
)
def test_sections_that_do_not_go_with_unequal_ranks_are_refused(
    preset: str, sections: dict[str, Any], said: str
) -> None:
    with pytest.raises(FedhftError, match=said):
        spec(preset, **sections)


@pytest.mark.parametrize("preset", ["hetlora", "flexlora", "flora", "fedhft-paper"])
def test_a_job_with_ranks_is_stored_and_read_again(preset: str) -> None:
    found = spec(preset)
    assert load_canonical(found.canonical()) == found
    assert json.loads(found.canonical())["tiers"]["middle"]["rank"] == 4


def test_a_job_without_ranks_is_stored_as_before() -> None:
    raw = json.loads(spec("fedhft", tiers={"t": {"density": 0.5}}).canonical())
    assert raw["tiers"] == {"t": {"density": 0.5, "depth": 0, "min_memory": 0}}


def test_flora_stacks_without_a_bound_unless_the_job_gives_one() -> None:
    assert spec("flora").server.publish_rank == 0
    assert spec("flora", server={"publish_rank": 12}).server.publish_rank == 12
    assert spec("fedhft-paper").server.publish_rank == 16


# -- the plan


@given(rank=st.integers(0, 20))
def test_a_plan_travels_with_its_rank(rank: int) -> None:
    plan = replace(PLAN, rank=rank)
    assert AdapterPlan.of(adapter_pb2.AdapterPlan.FromString(plan.message().SerializeToString())) == plan
    for slot in BIG.slots:
        assert plan.rank_of(slot) == (min(rank, slot.rank) if rank else slot.rank)


def test_a_plan_without_rank_has_the_bytes_of_earlier_releases() -> None:
    assert (
        PLAN.message().SerializeToString()
        == adapter_pb2.AdapterPlan(
            tier="t", depth=6, density=1.0, epochs=1.0, train_a=True, train_b=True
        ).SerializeToString()
    )


def test_a_round_record_keeps_ranks_and_is_as_before_without() -> None:
    def record(plan: AdapterPlan) -> RoundRecord:
        return RoundRecord(
            number=1, phase=Phase.COLLECTING, evaluation=False, base_version=0, membership_version=0, clusters=1,
            opened_ms=0, deadline_ms=1, target=1, quorum=1,
            participants={"a": Participant(samples=1, plan=plan, memberships=(1.0,), shard=None)},
        )  # fmt: skip

    ranked, plain = record(replace(PLAN, rank=2)), record(PLAN)
    assert RoundRecord.from_json(ranked.to_json()) == ranked
    assert RoundRecord.from_json(plain.to_json()) == plain
    assert "rank" not in json.loads(plain.to_json())["plans"][0]


def test_tiers_give_their_ranks_and_the_smaller_rank_is_the_smaller_plan() -> None:
    job = spec()
    found = plans(job, light_schema(), {"a": "large", "b": "middle", "c": "small"})
    assert {client: plan.rank for client, plan in found.items()} == {"a": 0, "b": 4, "c": 2}
    assert [tier_of(job, "a", memory) for memory in (5000, 1500, 10)] == ["large", "middle", "small"]
    declined = [PlanTooLarge(tier="large", needed=9000, allowed=5000)]
    assert tier_of(job, "a", 5000, "large", declined) == "middle"


def test_a_rank_takes_less_of_everything() -> None:
    job = spec()
    values = [largest_values(job, BIG, replace(PLAN, rank=rank)) for rank in (1, 2, 4, 8, 0)]
    assert values == sorted(values)
    factors = sum(8 * (slot.in_features + slot.out_features) for slot in BIG.slots)
    head = values[-1] - factors
    assert values == [head + factors // 8, head + factors // 4, head + factors // 2, values[-1], head + factors]
    assert trained_values(replace(PLAN, rank=2), BIG) == values[1]
    assert largest_update(job, BIG, replace(PLAN, rank=2)) < largest_update(job, BIG, PLAN) // 3
    assert fold_bytes(spec("flexlora"), BIG) > fold_bytes(job, BIG)


# -- the bytes


@quick
@given(rank=st.integers(1, 8), density=st.sampled_from([1.0, 0.3]), encoding=st.sampled_from(["fp32", "int8"]))
def test_an_update_of_fewer_columns_comes_back_and_takes_fewer_bytes(rank: int, density: float, encoding: str) -> None:
    delta = delta_of(BIG, density, rank)
    few = first_columns(delta, rank)
    data = encode(few, BIG, kind=UPDATE, encoding=encoding, rank=rank)
    found = decode(data, BIG, kind=UPDATE, max_values=few.values).delta
    assert {key: (m.rows, m.cols, m.kept) for key, m in found} == {key: (m.rows, m.cols, m.kept) for key, m in few}
    if encoding == "fp32":
        assert all(np.array_equal(found.tensors[key].values, matrix.values) for key, matrix in few)
    whole = len(encode(delta, BIG, kind=UPDATE, encoding=encoding))
    assert len(data) < whole * (rank + 1.5) / 8


def test_all_columns_have_the_bytes_of_earlier_releases() -> None:
    delta = delta_of(BIG, 1.0, 3)
    data = encode(delta, BIG, kind=UPDATE, encoding="fp32")
    assert not adapter_pb2.AdapterBlob.FromString(data).tensors.rank
    assert decode(data, BIG, kind=UPDATE).delta.values == delta.values


def test_only_updates_have_fewer_columns() -> None:
    few = first_columns(delta_of(BIG, 1.0, 3), 2)
    with pytest.raises(FedhftError, match="updates alone have fewer columns"):
        encode(few, BIG, kind=adapter_pb2.BLOB_KIND_DELTA, encoding="fp32", rank=2)
    blob = adapter_pb2.AdapterBlob.FromString(encode(few, BIG, kind=UPDATE, encoding="fp32", rank=2))
    blob.kind = adapter_pb2.BLOB_KIND_SNAPSHOT
    with pytest.raises(FedhftError, match="updates alone have fewer columns"):
        decode(blob.SerializeToString(), BIG, kind=adapter_pb2.BLOB_KIND_SNAPSHOT)


@pytest.mark.parametrize("sent", [1, 3, 8])
def test_an_update_has_the_columns_of_its_plan(sent: int) -> None:
    delta = first_columns(delta_of(BIG, 1.0, 3), sent)
    check_update(spec(), BIG, replace(PLAN, rank=sent), delta)
    with pytest.raises(FedhftError, match=r"is 384 x \d, the plan has 384 x 2") as refused:
        check_update(spec(), BIG, replace(PLAN, rank=2), delta)
    assert refused.value.code is ErrorCode.WRONG_SHAPE


@quick
@given(rank=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_the_direction_of_fewer_columns_is_that_of_zeros_in_the_others(rank: int, seed: int) -> None:
    few = first_columns(delta_of(BIG, 1.0, seed), rank)
    whole = {}
    for key, matrix in few:
        values = np.zeros(BIG.shape(key), np.float32)
        values[:, : matrix.cols] = matrix.values
        whole[key] = MaskedMatrix.full(values)
    assert Measured.of(few).sketch == Measured.of(MaskedDelta(whole)).sketch


# -- error feedback


@quick
@given(ranks=st.lists(st.integers(1, 3), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_error_feedback_follows_a_rank_that_changes(ranks: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    key = next(key for key in BIG.keys if key.part is Part.B)
    carried: Any = {}
    for rank in ranks:
        moved = rng.standard_normal((384, rank)).astype(np.float32)
        wanted = with_carried(MaskedDelta({key: MaskedMatrix.full(moved)}), carried, 1.0)
        before = carried.get(key, np.zeros((384, rank), np.float32))
        common = min(rank, before.shape[1])
        expected = moved.copy()
        expected[:, :common] += before[:, :common]
        np.testing.assert_array_equal(wanted.tensors[key].values, expected)
        sent = MaskedDelta({key: MaskedMatrix.full(np.round(expected).astype(np.float32))})
        carried = carried_after(carried, wanted, sent, 1.0)
        np.testing.assert_array_equal(carried[key], expected - np.round(expected))


def test_errors_are_carried_only_where_columns_keep_their_meaning() -> None:
    on = {"wire": {"up": "int8", "error_feedback": True}}
    assert carries_error(spec("hetlora", **on))
    assert carries_error(spec("fedsa-lora", **on, tiers={"t": {}}))
    assert not carries_error(spec("flexlora", **on))
    assert not carries_error(spec("flora", **on))
