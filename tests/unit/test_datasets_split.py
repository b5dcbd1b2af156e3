"""The holdout a client draws from its own rows."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fedhft.datasets.client_data import split_rows
from fedhft.datasets.examples import Example


def labelled(counts: list[int]) -> list[Example]:
    return [Example(f"{label}-{i}", None, float(label)) for label, count in enumerate(counts) for i in range(count)]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0.01, 0.9), st.integers(0, 2**32), st.randoms())
def test_a_split_keeps_every_row_once_in_order_and_every_class_in_training(counts, share, seed, random) -> None:  # type: ignore[no-untyped-def]
    rows = labelled(counts)
    random.shuffle(rows)
    train, held = split_rows(rows, share, seed)
    assert Counter(train) + Counter(held) == Counter(rows)
    places = {row: place for place, row in enumerate(rows)}
    for side in (train, held):
        assert [places[row] for row in side] == sorted(places[row] for row in side)
    assert {row.label for row in train} == {row.label for row in rows}
    for label, count in enumerate(counts):
        kept = sum(row.label == label for row in held)
        assert abs(kept - share * count) <= 1 or kept == count - 1
    assert (train, held) == split_rows(rows, share, seed)


def test_the_share_is_met_over_many_small_classes() -> None:
    # Rounding class by class would hold out nothing: 77 classes of 2 rows at a fifth.
    _, held = split_rows(labelled([2] * 77), 0.2, 1)
    assert len(held) == round(0.2 * 154)


def test_small_classes_are_held_out_by_seed_not_by_number() -> None:
    _, held = split_rows(labelled([2] * 77), 0.2, 1)
    assert max(row.label for row in held) > 40
    assert {row.label for row in held} != {row.label for row in split_rows(labelled([2] * 77), 0.2, 2)[1]}


def test_seeds_draw_different_rows() -> None:
    rows = labelled([30, 30])
    assert split_rows(rows, 0.2, 1)[1] != split_rows(rows, 0.2, 2)[1]


def test_rows_of_numbers_are_split_without_classes() -> None:
    rows = [Example(str(i), None, i / 7) for i in range(50)]
    train, held = split_rows(rows, 0.2, 3, by_class=False)
    assert (len(train), len(held)) == (40, 10)


def test_a_share_of_zero_or_a_single_row_holds_out_nothing() -> None:
    assert split_rows(labelled([5]), 0.0, 1)[1] == ()
    assert split_rows(labelled([1]), 0.5, 1)[1] == ()
