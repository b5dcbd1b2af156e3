"""Who is waited for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.job_sections import RoundsSpec
from fedhft.records import Missed, Phase, RoundHead
from fedhft.rounds.attendance import LONGEST, attending, least_of, least_quorum, needed, quorum_of, sits_out


def head(number: int = 1, asked: int = 8, quorum: int = 4, extensions: int = 0) -> RoundHead:
    return RoundHead(
        number=number, phase=Phase.COLLECTING, evaluation=False, base_version=number - 1, opened_ms=0, deadline_ms=1,
        extensions=extensions, target=asked, quorum=quorum, asked=asked,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("in_a_row", "rounds"),
    [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (5, 8), (6, LONGEST), (999, LONGEST)],
)
def test_with_each_further_miss_a_client_sits_out_twice_as_long_up_to_a_bound(in_a_row: int, rounds: int) -> None:
    out = [number for number in range(101, 300) if sits_out(Missed(in_a_row, 100), number)]
    assert out == list(range(101, 101 + rounds))


def test_where_too_few_would_be_left_everybody_is_asked() -> None:
    missed = {"b": Missed(3, 4), "c": Missed(3, 4)}
    assert attending(("a", "b", "c"), missed, 5, min_clients=1) == ("a",)
    assert attending(("a", "b", "c"), missed, 5, min_clients=2) == ("a", "b", "c")
    assert attending(("b", "c"), missed, 5, min_clients=1) == ("b", "c")
    assert attending((), missed, 5, min_clients=1) == ()


@given(st.integers(1, 200), st.integers(0, 200), st.integers(1, 300), st.floats(0.01, 1.0))
def test_a_quorum_is_never_under_that_of_min_clients_nor_over_the_asked(
    asked: int, proven: int, min_clients: int, fraction: float
) -> None:
    rules = RoundsSpec(min_clients=min_clients, quorum=fraction)
    quorum = quorum_of(rules, asked, min(proven, asked))
    assert 1 <= least_quorum(rules, asked) <= quorum <= asked


def test_strangers_do_not_raise_the_quorum_of_those_that_deliver() -> None:
    rules = RoundsSpec(min_clients=3)
    assert quorum_of(rules, asked=8, proven=3) == 2
    assert quorum_of(rules, asked=8, proven=8) == 4
    assert quorum_of(rules, asked=8, proven=0) == 4  # in the first round everybody is one


def test_in_the_first_round_they_stop_counting_once_it_was_extended() -> None:
    rules = RoundsSpec(min_clients=3)
    assert [needed(rules, head(extensions=times)) for times in (0, 1, 2)] == [4, 2, 2]
    assert [needed(rules, head(number=2, extensions=times)) for times in (0, 1)] == [4, 4]
    assert (least_of(rules, head()), least_of(rules, head(number=2))) == (2, 4)  # what clients are told
    assert needed(RoundsSpec(min_clients=8), head(extensions=1)) == 4
