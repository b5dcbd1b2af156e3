"""Row importance and selection (fedhft.masking.rows)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhft import seeds
from fedhft.adapter import MaskedMatrix, Part, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.masking.rows import RowState, select_rows
from fedhft.methods import MaskRule
from fedhft.wire.rows import seeded_rows


def scored(*scores: float) -> RowState:
    return RowState(np.array(scores, np.float64), np.zeros(len(scores), np.int64))


@settings(deadline=None)
@given(
    rows=st.integers(1, 200),
    density=st.floats(0.01, 1.0),
    exploration=st.floats(0.0, 0.99),
    rule=st.sampled_from([MaskRule.GRADIENT, MaskRule.DELTA_NORM, MaskRule.RANDOM]),
    seed=st.integers(0, 2**63),
)
def test_exactly_the_budget_is_kept_and_the_rows_form_a_valid_mask(
    rows: int, density: float, exploration: float, rule: MaskRule, seed: int
) -> None:
    keep = max(1, int(density * rows))
    memory = RowState.fresh(rows).observed(np.abs(seeds.uniform(seed, (rows,), 1.0)).astype(np.float64), 0.5)
    index = select_rows(memory, keep, exploration, rule, seed)
    assert index.dtype == np.int32
    assert len(index) == keep
    MaskedMatrix(rows, 1, index, np.zeros((keep, 1), np.float32))  # refuses a mask that does not strictly increase


def test_without_exploration_the_best_rows_are_kept() -> None:
    memory = scored(5, 1, 9, 3, 7)
    assert select_rows(memory, 3, 0.0, MaskRule.GRADIENT, seed=1).tolist() == [0, 2, 4]


def test_the_explored_share_goes_to_the_rows_longest_unsent() -> None:
    memory = scored(*range(20, 0, -1))
    for round_number, rows in enumerate([np.arange(0, 10), np.arange(10, 17), np.arange(19, 20)], start=1):
        memory = memory.sent(rows.astype(np.int32), round_number)
    # Budget 10, two explored: the best eight are rows 0-7; of the others 17 and 18 were never sent.
    index = select_rows(memory, 10, 0.2, MaskRule.GRADIENT, seed=1)
    assert index.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 17, 18]


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_exploration_reaches_every_row_in_the_end(seed: int) -> None:
    memory = scored(*range(40))
    seen: set[int] = set()
    for round_number in range(1, 41):
        index = select_rows(memory, 10, 0.1, MaskRule.GRADIENT, seeds.seed_of(seed, round_number))
        seen.update(index.tolist())
        memory = memory.sent(index, round_number)
    assert seen == set(range(40))


def test_a_budget_of_two_or_more_always_explores() -> None:
    memory = scored(9, 8, 1, 2).sent(np.array([0, 1, 3], np.int32), 1)
    assert select_rows(memory, 2, 0.1, MaskRule.GRADIENT, seed=1).tolist() == [0, 2]
    assert select_rows(memory, 1, 0.1, MaskRule.GRADIENT, seed=1).tolist() == [0]


def test_ties_are_broken_by_the_seed_and_not_by_position() -> None:
    memory = RowState.fresh(100)
    first = select_rows(memory, 10, 0.0, MaskRule.GRADIENT, seed=1)
    assert np.array_equal(first, select_rows(memory, 10, 0.0, MaskRule.GRADIENT, seed=1))
    assert not np.array_equal(first, select_rows(memory, 10, 0.0, MaskRule.GRADIENT, seed=2))
    assert not np.array_equal(first, np.arange(10))


def test_a_full_budget_keeps_every_row_under_every_rule() -> None:
    for rule in MaskRule:
        assert select_rows(scored(1, 2, 3), 3, 0.1, rule, seed=0).tolist() == [0, 1, 2]


def test_random_rows_do_not_depend_on_scores_and_travel_as_a_seed() -> None:
    key = TensorKey("layer.0.query", Part.B)
    stream = seeds.seed_of("rows", 7, key.name, key.part.value)
    for memory in (RowState.fresh(50), scored(*range(50))):
        index = select_rows(memory, 12, 0.1, MaskRule.RANDOM, stream)
        assert np.array_equal(index, seeded_rows(7, key, 50, 12))


def test_scores_are_smoothed_over_rounds_for_all_rows() -> None:
    memory = RowState.fresh(3).observed(np.array([4.0, 0.0, 8.0]), 0.5).observed(np.array([0.0, 2.0, 8.0]), 0.5)
    assert memory.score.tolist() == [1.0, 1.0, 6.0]


def test_a_row_whose_gradient_is_not_finite_keeps_its_score() -> None:
    memory = scored(3, 5).observed(np.array([np.nan, 1.0]), 0.5).observed(np.array([np.inf, 3.0]), 0.5)
    assert memory.score.tolist() == [3.0, 3.0]


def test_sending_notes_the_round_of_the_sent_rows_only() -> None:
    before = RowState.fresh(4)
    after = before.sent(np.array([1, 3], np.int32), 7)
    assert after.last_sent.tolist() == [0, 7, 0, 7]
    assert before.last_sent.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("keep", "exploration", "rule"),
    [
        (0, 0.1, MaskRule.GRADIENT),
        (4, 0.1, MaskRule.GRADIENT),
        (2, 1.0, MaskRule.GRADIENT),
        (2, -0.1, MaskRule.GRADIENT),
        (2, 0.1, MaskRule.NONE),
    ],
)
def test_impossible_budgets_are_refused(keep: int, exploration: float, rule: MaskRule) -> None:
    with pytest.raises(FedhftError) as refusal:
        select_rows(scored(1, 2, 3), keep, exploration, rule, seed=0)
    assert refusal.value.code is ErrorCode.INVALID_ARGUMENT


def test_memories_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(FedhftError):
        RowState(np.zeros(3), np.zeros(4, np.int64))
    with pytest.raises(FedhftError):
        RowState.fresh(3).observed(np.zeros(2), 0.5)
