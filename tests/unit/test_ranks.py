"""Ranks by layer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.job import load_canonical, parse_job
from fedhft.job_sections import AdapterSpec


@given(st.integers(1, 512), st.integers(1, 100))
def test_a_progression_grows_toward_the_output_with_the_rank_as_its_mean(rank: int, layers: int) -> None:
    ranks = AdapterSpec(rank=rank, ranks="progression").ranks_of(layers)
    assert len(ranks) == layers
    assert list(ranks) == sorted(ranks)
    assert min(ranks) >= 1
    assert max(ranks) <= AdapterSpec(rank=rank, ranks="progression").most_rank
    if rank > layers:  # where rounding up to 1 does not count
        assert sum(ranks) / layers == pytest.approx(rank, abs=0.51)


def test_an_example_of_each_form() -> None:
    assert AdapterSpec(rank=8).ranks_of(3) == (8, 8, 8)
    assert AdapterSpec(rank=8, ranks="progression").ranks_of(3) == (4, 8, 12)
    assert AdapterSpec(rank=8, ranks=(2, 4, 9)).ranks_of(3) == (2, 4, 9)
    assert AdapterSpec(ranks=(2, 4, 9)).most_rank == 9
    with pytest.raises(ValueError, match="3 ranks for a model of 4 layers"):
        AdapterSpec(ranks=(2, 4, 9)).ranks_of(4)


@given(st.integers(1, 64), st.integers(1, 64), st.floats(0.5, 64.0))
def test_adapters_are_scaled_alike_or_by_their_rank(rank: int, own: int, alpha: float) -> None:
    equal = AdapterSpec(rank=rank, alpha=alpha)
    assert equal.alpha_of(own) / own == pytest.approx(alpha / rank)
    assert equal.alpha_of(rank) == alpha
    assert AdapterSpec(rank=rank, alpha=alpha, scaling="by-rank").alpha_of(own) == alpha


@pytest.mark.parametrize("wrong", ["growing", (0, 3), (), (513,), "8"])
def test_ranks_that_cannot_be_are_refused_by_name(wrong: object) -> None:
    raw = {"name": "j", "model": {"name": "m"}, "task": {"labels": ["a", "b"]}, "adapter": {"ranks": wrong}}
    with pytest.raises(Exception, match=r"adapter\.ranks"):
        parse_job(raw)


@pytest.mark.parametrize("ranks", ["uniform", "progression", [1, 2]])
@pytest.mark.parametrize("method", ["legend", "fedhft"])
def test_the_stored_form_keeps_the_ranks_whatever_the_preset_says(method: str, ranks: object) -> None:
    raw = {"name": "j", "model": {"name": "m"}, "task": {"labels": ["a", "b"]}, "adapter": {"ranks": ranks}}
    spec = parse_job({**raw, "method": method})
    assert load_canonical(spec.canonical()) == spec
    assert parse_job({**raw, "adapter": {}, "method": "legend"}).adapter.ranks == "progression"
