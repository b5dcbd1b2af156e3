"""How far one client can move a round."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.rounds.influence import Magnitude, masses, scales

counts = st.dictionaries(st.sampled_from("abcdefghij"), st.integers(1, 10**12), min_size=1)
sizes = st.dictionaries(
    st.sampled_from("abcdefghij"),
    st.builds(Magnitude, st.floats(0, 1e6).map(lambda norm: round(norm, 6)), st.integers(0, 10**9)),
    min_size=1,
)
factors = st.floats(0.5, 10)


def test_a_client_weighs_at_most_so_many_times_the_median() -> None:
    assert masses({"a": 10, "b": 20, "c": 10**9}, 2.0) == {"a": 10.0, "b": 20.0, "c": 40.0}
    assert masses({"a": 10, "b": 20, "c": 30}, 2.0) == {"a": 10.0, "b": 20.0, "c": 30.0}
    assert masses({"a": 1, "b": 10**9}, 0.0) == {"a": 1.0, "b": 1e9}
    assert masses({}, 2.0) == {}


def test_of_two_clients_the_smaller_one_is_the_measure() -> None:
    assert masses({"a": 10, "b": 10**9}, 2.0) == {"a": 10.0, "b": 20.0}
    assert scales({"a": Magnitude(1, 4), "b": Magnitude(100, 4)}, 1.5) == {"a": 1.0, "b": pytest.approx(0.015)}


@given(counts, factors)
def test_whoever_is_not_above_the_bound_keeps_every_sample(samples: dict[str, int], cap: float) -> None:
    weights = masses(samples, cap)
    most = cap * sorted(samples.values())[(len(samples) - 1) // 2]
    assert all(0 < weights[client] <= most or weights[client] == samples[client] <= most for client in samples)
    assert all(weights[client] == samples[client] for client in samples if samples[client] <= most)


@given(counts, st.integers(10**14, 10**15), factors)
def test_a_minority_cannot_weigh_more_by_claiming_more(samples: dict[str, int], claim: int, cap: float) -> None:
    honest = {**samples, "z": max(samples.values()), "y": max(samples.values())}
    attacked = {**honest, "hostile": claim}
    further = {**honest, "hostile": claim * 1000}
    assert masses(attacked, cap)["hostile"] == masses(further, cap)["hostile"]


@given(sizes, factors)
def test_no_update_is_larger_than_the_bound_after_scaling(magnitudes: dict[str, Magnitude], clip: float) -> None:
    found = scales(magnitudes, clip)
    known = sorted(one.rms for one in magnitudes.values() if one.rms > 0)
    most = clip * known[(len(known) - 1) // 2] if known else math.inf
    for client, magnitude in magnitudes.items():
        assert 0 < found[client] <= 1 or magnitude.rms == math.inf
        assert magnitude.rms * found[client] <= most * (1 + 1e-9)
        if magnitude.rms <= most:
            assert found[client] == 1.0


def test_plans_are_compared_by_what_a_value_moves_on_average() -> None:
    whole, half = Magnitude(math.sqrt(2.0), 200), Magnitude(1.0, 100)
    assert scales({"a": whole, "b": half, "c": half}, 1.0) == {"a": pytest.approx(1.0), "b": 1.0, "c": 1.0}


def test_who_sends_nothing_does_not_make_others_small() -> None:
    nothing = Magnitude(0.0, 100)
    found = scales({"a": nothing, "b": nothing, "c": nothing, "d": Magnitude(1.0, 100)}, 1.0)
    assert found == {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}
    assert scales({"a": Magnitude(1.0, 0)}, 1.0) == {"a": 1.0}


def test_zero_turns_it_off() -> None:
    assert scales({"a": Magnitude(1.0, 1), "b": Magnitude(1e30, 1)}, 0.0) == {"a": 1.0, "b": 1.0}
