"""Batches: every row once per epoch, rows of like length together, the same for the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.plan import steps_of
from fedhft.training.batches import EncodedRows, mean_tokens, padded_tokens, scoring_batches, training_batches
from fedhft.training.tasks.interface import Tokens


@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(1, 20), st.integers(0, 2**40))
def test_an_epoch_reads_every_row_once_in_batches_of_nearly_equal_size(
    lengths: list[int], size: int, seed: int
) -> None:
    count = math.ceil(len(lengths) / size)
    batches = list(training_batches(np.array(lengths), size, seed, count))
    assert len(batches) == count
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


def test_rows_of_like_length_share_a_batch_and_batches_come_in_random_order() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, 512)
    batches = list(training_batches(lengths, 16, 3, 32))
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    assert padded < 1.2 * lengths.sum()
    longest = [int(lengths[batch].max()) for batch in batches]
    assert longest != sorted(longest)
    assert longest[:8] != sorted(longest[:8])


def test_epochs_differ_seeds_differ_and_equal_seeds_agree() -> None:
    lengths = np.full(64, 9)
    run = [batch.tolist() for batch in training_batches(lengths, 8, 5, 16)]
    assert run[:8] != run[8:]
    assert run == [batch.tolist() for batch in training_batches(lengths, 8, 5, 16)]
    assert run != [batch.tolist() for batch in training_batches(lengths, 8, 6, 16)]


def test_steps_follow_epochs_and_stop_at_the_cap() -> None:
    assert steps_of(100, 16, 1.0, 0) == 7
    assert steps_of(100, 16, 2.5, 0) == 18
    assert steps_of(100, 16, 0.01, 0) == 1
    assert steps_of(100, 16, 2.0, 5) == 5


@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(1, 20))
def test_a_mean_batch_has_at_least_the_tokens_of_its_rows_and_no_more_than_the_longest_would_take(
    lengths: list[int], size: int
) -> None:
    steps = math.ceil(len(lengths) / size)
    found = mean_tokens(np.array(lengths), size) * steps
    assert sum(lengths) <= found * (1 + 1e-9)
    assert found <= len(lengths) * max(lengths) * (1 + 1e-9)


def test_the_mean_batch_is_that_of_any_epoch() -> None:
    lengths = np.random.default_rng(1).integers(3, 60, 400)
    for seed in range(5):
        tokens = [padded_tokens(lengths, batch) for batch in training_batches(lengths, 16, seed, 25)]
        assert np.mean(tokens) == pytest.approx(mean_tokens(lengths, 16), rel=0.05)


def test_scoring_reads_every_row_once_shortest_first() -> None:
    lengths = np.array([5, 1, 9, 3])
    assert [batch.tolist() for batch in scoring_batches(lengths, 3)] == [[1, 3, 0], [2]]


def test_a_batch_pads_on_the_right_and_says_where() -> None:
    rows = (
        Tokens(np.array([7, 8, 9], np.int32), np.array([0, 0, 1], np.int32)),
        Tokens(np.array([5], np.int32), np.array([0], np.int32)),
    )
    inputs = EncodedRows(rows, np.array([1, 0]), pad=2).inputs(np.array([1, 0]))
    assert inputs["input_ids"].tolist() == [[5, 2, 2], [7, 8, 9]]
    assert inputs["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert inputs["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 1]]
    left = EncodedRows(rows, np.array([1, 0]), pad=2, left=True).inputs(np.array([1, 0]))
    assert left["input_ids"].tolist() == [[2, 2, 5], [7, 8, 9]]
    assert left["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
