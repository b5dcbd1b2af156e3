"""Who takes part, and what an update may carry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedhft.adapter import AdapterSchema, MaskedDelta, MaskedMatrix, Parameter, Part, Slot, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec, parse_job
from fedhft.planning.planned import Bound, Planned
from fedhft.records import ClientRecord, MembershipRecord
from fedhft.rounds.acceptance import check_update, expected_keys, largest_update
from fedhft.rounds.opening import asked_of, open_round, sampled
from fedhft.rounds.summary import cluster_sizes, spread

SCHEMA = AdapterSchema(
    base_digest="b",
    tokenizer_digest="t",
    architecture="x",
    labels=("a", "b"),
    layers=4,
    slots=tuple(Slot(f"layer.{i}.query", i, 8, 12, 2) for i in range(4)),
    head=(Parameter("classifier.weight", (2, 8)), Parameter("classifier.bias", (2,))),
)


def spec(**changes: Any) -> JobSpec:
    raw: dict[str, Any] = {
        "name": "j",
        "model": {"name": "m"},
        "task": {"labels": ["a", "b"]},
        "adapter": {"rank": 2},
        "tiers": {"large": {"min_memory": "2GiB"}, "small": {"density": 0.25, "depth": 2}},
    }
    return parse_job({**raw, **changes})


def client(name: str, tier: str = "large") -> ClientRecord:
    return ClientRecord(client=name, tier=tier, samples=10, data_digest="", joined_ms=0)


def opened(spec_: JobSpec, number: int = 1, **changes: Any) -> Any:
    clients = {"a": client("a"), "b": client("b", "small"), "c": client("c")}
    fields: dict[str, Any] = {
        "number": number,
        "evaluation": False,
        "base_version": number - 1,
        "memberships": None,
        "clients": clients,
        "asked": ("a", "b", "c"),
        "now_ms": 5000,
    }
    return open_round(spec_, SCHEMA, **{**fields, **changes})


def test_a_round_asks_a_sample_and_the_final_evaluation_everybody_who_is_live() -> None:
    live = ("d", "b", "a", "c")
    assert len(asked_of(spec(rounds={"sample": 0.5}), live, 1, evaluation=False)) == 2
    assert asked_of(spec(rounds={"sample": 0.5}), live, 1, evaluation=True) == ("a", "b", "c", "d")


def test_the_shared_rows_are_dealt_out_among_those_asked_who_have_them() -> None:
    names = ("a", "b", "c", "d")
    clients = {name: client(name).model_copy(update={"has_shared_validation": name != "b"}) for name in names}
    parts = opened(spec(), clients=clients, asked=("a", "b", "d")).participants
    assert {name: part.shard for name, part in parts.items()} == {"a": 0, "b": None, "d": 1}


def test_sampling_is_seeded_and_changes_from_round_to_round() -> None:
    names = tuple(f"c{i:02}" for i in range(20))
    half = spec(rounds={"sample": 0.5})
    first = sampled(half, names, 1)
    assert len(first) == 10
    assert first == sampled(half, names, 1)
    assert first != sampled(half, names, 2)
    assert first == tuple(sorted(first))


def test_tiers_decide_depth_and_density_and_uniform_methods_ignore_them() -> None:
    current = opened(spec())
    assert current.participants["b"].plan.density == 0.25
    assert current.participants["b"].plan.depth == 2
    assert current.participants["a"].plan.depth == 4
    fedit = spec(method="fedit")
    assert opened(fedit).participants["b"].plan.density == 1.0


def test_a_client_without_memberships_is_spread_evenly() -> None:
    memberships = MembershipRecord(version=3, round=1, clusters=2, rows={"a": (0.9, 0.1)})
    current = opened(spec(), memberships=memberships)
    assert current.participants["a"].memberships == (0.9, 0.1)
    assert current.participants["c"].memberships == (0.5, 0.5)
    assert current.membership_version == 3


def test_the_first_alternate_round_trains_b_because_b_starts_at_zero() -> None:
    alternate = spec(method={"trained": "alternate"})
    first, second = opened(alternate, 1), opened(alternate, 2)
    assert (first.participants["a"].plan.train_a, first.participants["a"].plan.train_b) == (False, True)
    assert (second.participants["a"].plan.train_a, second.participants["a"].plan.train_b) == (True, False)


def update_of(spec_: JobSpec, name: str, scale: float = 1.0) -> MaskedDelta:
    plan = opened(spec_).participants[name].plan
    tensors = {}
    for key in expected_keys(spec_, SCHEMA, plan):
        rows, cols = SCHEMA.shape(key)
        kept = plan.rows_allowed(key, SCHEMA)
        index = None if kept == rows else np.arange(kept, dtype=np.int32)
        tensors[key] = MaskedMatrix(rows, cols, index, np.full((kept, cols), scale, np.float32))
    return MaskedDelta(tensors)


def refusal(spec_: JobSpec, name: str, delta: MaskedDelta) -> ErrorCode:
    with pytest.raises(FedhftError) as caught:
        check_update(spec_, SCHEMA, opened(spec_).participants[name].plan, delta)
    return caught.value.code


def test_an_update_as_planned_is_fine_and_another_clients_is_not() -> None:
    job = spec()
    check_update(job, SCHEMA, opened(job).participants["a"].plan, update_of(job, "a"))
    check_update(job, SCHEMA, opened(job).participants["b"].plan, update_of(job, "b"))
    assert refusal(job, "b", update_of(job, "a")) is ErrorCode.OUTSIDE_PLAN


def test_rows_beyond_the_density_are_refused() -> None:
    job = spec()
    delta = update_of(job, "b")
    key = TensorKey("layer.3.query", Part.B)
    tensors = {**delta.tensors, key: MaskedMatrix.full(np.ones((12, 2), np.float32))}
    assert refusal(job, "b", MaskedDelta(tensors)) is ErrorCode.OUTSIDE_PLAN


def test_wrong_shapes_unfinite_values_large_norms_and_nothing_are_refused_by_name() -> None:
    job = spec(limits={"update_norm": 5.0})
    good = dict(update_of(job, "b", 0.1).tensors)
    key = TensorKey("classifier.bias", Part.HEAD)
    wrong = {**good, key: MaskedMatrix.full(np.ones((3, 1), np.float32))}
    assert refusal(job, "b", MaskedDelta(wrong)) is ErrorCode.WRONG_SHAPE
    nan = {**good, key: MaskedMatrix.full(np.array([[np.nan], [1]], np.float32))}
    assert refusal(job, "b", MaskedDelta(nan)) is ErrorCode.NON_FINITE
    assert refusal(job, "b", update_of(job, "b", 100.0)) is ErrorCode.NORM_TOO_LARGE
    assert refusal(job, "b", MaskedDelta({})) is ErrorCode.MALFORMED_UPDATE


def test_the_size_bound_follows_the_plan() -> None:
    job = spec()
    current = opened(job)
    small, large = (largest_update(job, SCHEMA, current.participants[name].plan) for name in ("b", "a"))
    assert small < large
    assert largest_update(spec(limits={"update_bytes": "1MiB"}), SCHEMA, current.participants["b"].plan) == 2**20


def test_the_worst_tenth_is_a_mean_over_at_least_one_client() -> None:
    assert spread([]) is None
    assert spread([0.5, None, 1.0]) == (0.75, 0.5, 0.5)
    mean, tenth, worst = spread([i / 20 for i in range(20)]) or (0, 0, 0)
    assert (round(mean, 6), tenth, worst) == (0.475, 0.025, 0.0)


def test_clients_are_counted_by_their_largest_membership() -> None:
    assert cluster_sizes([(0.5, 0.5), (0.1, 0.9), (1.0, 0.0)], 2) == [2, 1]


@pytest.mark.parametrize(
    ("fraction", "live", "needed"), [(0.5, 1, 1), (0.5, 3, 2), (0.34, 3, 2), (0.3, 10, 3), (0.01, 3, 1), (1.0, 3, 3)]
)
def test_shares_are_rounded_up_to_whole_clients_and_never_to_none(fraction: float, live: int, needed: int) -> None:
    names = tuple(f"c{i}" for i in range(live))
    clients = {name: client(name) for name in names}
    record = opened(spec(rounds={"quorum": fraction, "target": 1.0, "sample": 1.0}), clients=clients, asked=names)
    assert (record.quorum, record.target) == (needed, live)
    record = opened(spec(rounds={"quorum": fraction, "target": fraction}), clients=clients, asked=names)
    assert record.target == needed
    assert len(sampled(spec(rounds={"sample": fraction}), names, 1)) == needed


def test_the_final_evaluation_waits_for_everybody_whatever_the_target() -> None:
    record = opened(spec(rounds={"target": 0.5, "quorum": 0.5, "sample": 0.5}), evaluation=True)
    assert (record.target, sorted(record.participants)) == (3, ["a", "b", "c"])


@pytest.mark.parametrize("trained", ["alternate", "interleaved"])
@pytest.mark.parametrize("number", [2, 3])
def test_the_final_plan_of_an_alternating_method_trains_both_factors(trained: str, number: int) -> None:
    job = spec(method={"trained": trained})
    final = opened(job, number, evaluation=True).participants["a"].plan
    assert (final.train_a, final.train_b) == (True, True)
    round_ = opened(job, number).participants["a"].plan
    assert (round_.train_a, round_.train_b) != (True, True) or trained == "interleaved"


def test_the_final_plan_of_a_one_factor_method_stays_one_sided() -> None:
    final = opened(spec(method="ffa-lora"), 5, evaluation=True).participants["a"].plan
    assert (final.train_a, final.train_b) == (False, True)


def test_what_the_rounds_result_depends_on_is_pinned() -> None:
    memberships = MembershipRecord(version=3, round=1, clusters=2, rows={"a": (0.9, 0.1)})
    record = opened(spec(rounds={"deadline": "30s"}), 2, memberships=memberships)
    assert (record.base_version, record.membership_version, record.clusters) == (1, 3, 2)
    assert (record.opened_ms, record.deadline_ms) == (5000, 35_000)
    assert record.participants["a"].memberships == (0.9, 0.1)
    assert record.participants["c"].memberships == (0.5, 0.5)  # joined since: uniform
    assert record.participants["a"].samples == 10


def test_a_quorum_counts_no_one_who_sits_out() -> None:
    names = tuple(f"c{number:02}" for number in range(12))
    clients = {name: client(name) for name in names}
    absent = Planned(0, 0, False, 0.0, Bound.ABSENT)
    opened_ = opened(
        spec(method={"allocation": "capacity"}, rounds={"quorum": 0.8}),
        number=3, clients=clients, asked=names, proven=names, planned=dict.fromkeys(names[:4], absent),
    )  # fmt: skip
    assert sorted(opened_.participants) == list(names[4:])
    assert (opened_.quorum, opened_.target) == (7, 8)
