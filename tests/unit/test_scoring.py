"""Metrics: as scikit-learn has them, and of a whole split from the sums of its shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as reference

from fedhft.scoring.confusion import Confusion
from fedhft.scoring.likelihood import Likelihood
from fedhft.scoring.metrics import DEFAULTS, KINDS, METRICS, metric, names_for
from fedhft.scoring.moments import Moments, spearman
from fedhft.scoring.pooling import inconsistent, sums_of, tally_of
from fedhft.scoring.spans import count_entities, entities, entity_types

LABELS = ("a", "b", "c", "d")
classes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)
numbers = st.lists(
    st.tuples(*[st.floats(-100, 100, allow_nan=False, width=32)] * 2), min_size=2, max_size=30, unique=True
)
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
tag_rows = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8), min_size=1, max_size=6
)


def columns(pairs: list[tuple[int, int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    found = np.array(pairs, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


@given(classes)
def test_counts_per_class_give_the_metrics_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    answers, actual = columns(pairs)
    counted = Confusion.of_classes(answers, actual, 4)
    assert counted.metric("accuracy") == pytest.approx(reference.accuracy_score(actual, answers))
    for average in ("macro", "micro"):
        wanted = reference.f1_score(actual, answers, average=average, zero_division=0)
        assert counted.metric(f"{average}_f1") == pytest.approx(wanted)
    assert counted.metric("mcc") == pytest.approx(reference.matthews_corrcoef(actual, answers))


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=20))
def test_counts_of_label_sets_give_the_metrics_of_scikit_learn(rows: list[list[bool]]) -> None:
    answers, actual = np.array(rows)[:, :3], np.array(rows)[:, 3:]
    counted = Confusion.of_sets(answers, actual)
    assert counted.metric("accuracy") == pytest.approx(reference.accuracy_score(actual, answers))
    assert counted.metric("micro_f1") == pytest.approx(
        reference.f1_score(actual, answers, average="micro", zero_division=0)
    )


@given(numbers)
def test_moments_give_the_correlation_and_errors_of_scikit_learn_and_scipy(pairs: list[tuple[float, float]]) -> None:
    answers, targets = np.array(pairs, np.float64).T
    counted = Moments.of(answers, targets, 3.0)
    assert counted.metric("mae") == pytest.approx(3 * reference.mean_absolute_error(targets, answers), abs=1e-9)
    wanted = 3 * reference.mean_squared_error(targets, answers) ** 0.5
    assert counted.metric("rmse") == pytest.approx(wanted, abs=1e-9)
    if np.ptp(answers) > 1e-2 and np.ptp(targets) > 1e-2:
        assert counted.metric("pearson") == pytest.approx(stats.pearsonr(answers, targets)[0], abs=1e-6)
        assert spearman(answers, targets) == pytest.approx(stats.spearmanr(answers, targets)[0], abs=1e-9)


def test_a_correlation_of_what_does_not_vary_is_zero() -> None:
    same = np.full(5, 1e6 + 0.1)
    assert Moments.of(same, np.arange(5.0), 1.0).metric("pearson") == 0.0
    assert spearman(same, np.arange(5.0)) == 0.0
    assert spearman(np.zeros(0), np.zeros(0)) == 0.0


@given(classes, numbers, tag_rows, st.integers(1, 5))
@settings(deadline=None)
def test_a_metric_of_the_whole_follows_from_the_sums_of_any_shares(
    pairs: list[tuple[int, int]],
    values: list[tuple[float, float]],
    tagged: list[list[tuple[int, int]]],
    shares: int,
) -> None:
    answers, actual = columns(pairs)
    whole = Confusion.of_classes(answers, actual, 4)
    parts = [Confusion.of_classes(answers[i::shares], actual[i::shares], 4).sums for i in range(shares)]
    agree("classification", whole, np.sum(parts, axis=0))

    given_numbers, targets = np.array(values, np.float64).T
    moments = [Moments.of(given_numbers[i::shares], targets[i::shares], 2.0).sums for i in range(shares)]
    agree("regression", Moments.of(given_numbers, targets, 2.0), np.sum(moments, axis=0))

    def count(rows: list[list[tuple[int, int]]]) -> Confusion:
        flat = columns([pair for row in rows for pair in row])
        return count_entities(*flat, np.array([len(row) for row in rows], np.int64), TAGS)

    agree("token-classification", count(tagged), np.sum([count(tagged[i::shares]).sums for i in range(shares)], axis=0))


def agree(kind: str, whole: Confusion | Moments | Likelihood, sums: NDArray[np.float64]) -> None:
    for name in names_for(kind):
        if metric(name).pooled_by_sums and not (kind == "token-classification" and name == "mcc"):
            assert tally_of(kind, sums).metric(name) == pytest.approx(whole.metric(name), abs=1e-6), name


def test_the_mean_of_shares_would_be_wrong_where_sums_are_right() -> None:
    actual, answers = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])
    halves = [Confusion.of_classes(answers[part], actual[part], 2) for part in (slice(0, 2), slice(2, 4))]
    whole = Confusion.of_classes(answers, actual, 2).metric("macro_f1")
    pooled = Confusion.from_sums(sum(half.sums for half in halves)).metric("macro_f1")
    assert pooled == whole
    assert abs(np.mean([half.metric("macro_f1") for half in halves]) - whole) > 0.05


def test_likelihood_is_the_exponential_of_the_mean_cross_entropy_and_counts_rows_that_are_right_throughout() -> None:
    import torch

    logits = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    targets = np.array([0, 4, 2, 1, 3, 3])
    counted = Likelihood.of(logits, targets, np.array([2, 3, 1]))
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets))
    assert counted.metric("perplexity") == pytest.approx(float(loss.exp()), rel=1e-6)
    right = logits.argmax(1) == targets
    assert counted.metric("token_accuracy") == right.mean()
    perfect = np.eye(5, dtype=np.float32)[[0, 4, 2, 1, 3, 0]] * 9
    assert Likelihood.of(perfect, targets, np.array([2, 3, 1])).metric("exact_match") == pytest.approx(2 / 3)
    assert Likelihood.from_sums([1.0, 1e9, 0, 1, 0]).metric("perplexity") == METRICS["perplexity"].most


def test_entities_begin_with_b_or_with_an_i_of_another_type_and_end_before_the_next() -> None:
    assert entities(["B-PER", "I-PER", "O", "B-LOC"]) == {(0, 2, "PER"), (3, 4, "LOC")}
    assert entities(["B-PER", "B-PER"]) == {(0, 1, "PER"), (1, 2, "PER")}
    assert entities(["I-PER", "I-LOC", "I-LOC"]) == {(0, 1, "PER"), (1, 3, "LOC")}
    assert entities(["O", "O"]) == set()
    assert entity_types(TAGS) == ("PER", "LOC")


def test_an_entity_counts_only_when_place_and_type_are_right() -> None:
    actual = np.array([1, 2, 0, 3])  # PER PER - LOC
    answers = np.array([1, 0, 0, 3])  # the person is cut short
    counted = count_entities(answers, actual, np.array([4]), TAGS)
    assert counted.metric("micro_f1") == 0.5
    assert counted.metric("accuracy") == 0.75


def test_every_kind_has_default_metrics_of_its_own_whose_first_is_a_score() -> None:
    for kind in KINDS:
        assert set(DEFAULTS[kind]) <= set(names_for(kind))
        first = metric(DEFAULTS[kind][0])
        assert first.more_is_better
        assert (first.least, first.most) in ((0.0, 1.0), (-1.0, 1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_sums_travel_as_the_metrics_need(kind: str) -> None:
    labels = TAGS if kind == "token-classification" else LABELS
    wanted = {"classification": 14, "multi-label": 14, "regression": 8, "token-classification": 8, "causal-lm": 5}
    assert sums_of(kind, labels, names_for(kind)) == wanted[kind]
    assert sums_of("classification", labels, ("accuracy",)) == 0
    assert sums_of("own", labels, ("own",)) == 0
    many = tuple(f"label-{index}" for index in range(1365))
    assert sums_of("classification", many[:-1], ("macro_f1",)) == 4094
    assert sums_of("classification", many, ("macro_f1",)) == 0  # more would travel than is worth it


@given(classes, numbers, tag_rows, st.data())
@settings(deadline=None)
def test_honest_sums_are_consistent_and_those_of_other_rows_are_not(
    pairs: list[tuple[int, int]],
    values: list[tuple[float, float]],
    tagged: list[list[tuple[int, int]]],
    data: st.DataObject,
) -> None:
    answers, actual = columns(pairs)
    sets = data.draw(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=9))
    some, others = np.array(sets), np.roll(np.array(sets), 1, axis=0)
    flat = columns([pair for row in tagged for pair in row])
    sizes = np.array([len(row) for row in tagged], np.int64)
    given_numbers, targets = np.array(values, np.float64).T
    losses = np.abs(flat[0] - flat[1]).astype(np.float64)
    counted = {
        "classification": (Confusion.of_classes(answers, actual, 4).sums, len(pairs)),
        "multi-label": (Confusion.of_sets(some, others).sums, len(sets)),
        "token-classification": (count_entities(*flat, sizes, TAGS).sums, len(tagged)),
        "regression": (Moments.of(given_numbers, targets, 2.0).sums, len(values)),
        "causal-lm": (Likelihood.of_tokens(losses, losses == 0, sizes).sums, len(tagged)),
    }
    for kind, (sums, rows) in counted.items():
        assert inconsistent(kind, sums.tolist(), rows, 8) == "", kind
        assert inconsistent(kind, (sums * 1e6).tolist(), rows, 8) != "", kind
        assert inconsistent(kind, sums.tolist(), 0, 8) != "", kind
        if kind != "regression":
            assert inconsistent(kind, (-sums - 1).tolist(), rows, 8) != "", kind
        assert inconsistent(kind, [], rows, 8) == ""


@pytest.mark.parametrize(
    ("kind", "sums"),
    [
        ("classification", [4.0, 5.0, 0, 0, 2, 2, 2, 2]),  # more right than there are
        ("classification", [4.0, 2.0, 3, 0, 2, 2, 2, 2]),  # more hits than answers
        ("token-classification", [64.0, 2.0, 0, 0, 0]),  # more words than four rows have
        ("regression", [4.0, 100.0, 0, 1, 0, 0, 0, 0]),
        ("regression", [4.0, 0, 0, -1.0, 0, 0, 0, 0]),
        ("causal-lm", [10.0, -1.0, 2, 4, 0]),
        ("causal-lm", [100.0, 1.0, 2, 4, 0]),
    ],
)
def test_sums_that_no_rows_have_are_told_apart(kind: str, sums: list[float]) -> None:
    assert inconsistent(kind, sums, 4, 8) != ""
