"""Handing out real data: disjoint, repeatable, skewed as asked, with labels permuted by hidden groups."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.datasets.examples import Example
from fedhft.datasets.federated import ClientRows, FederatedData, label_counts
from fedhft.datasets.partition import Partition, Shares, group_permutations, hand_out
from fedhft.datasets.source import Source
from fedhft.errors import ErrorCode, FedhftError


def source(rows: int = 1200, labels: int = 4) -> Source:
    train = tuple(Example(f"train {index}", None, index % labels) for index in range(rows))
    validation = tuple(Example(f"validation {index}", None, index % labels) for index in range(100))
    return Source("made", tuple(f"label-{index}" for index in range(labels)), train, validation)


def everybody(data: FederatedData) -> list[Example]:
    return [row for client in data.clients for row in (*client.train, *client.holdout)]


@given(
    clients=st.integers(1, 8),
    per_client=st.integers(5, 100),
    alpha=st.floats(0.05, 50),
    kind=st.sampled_from(list(Partition)),
    extra=st.integers(0, 20),
    seed=st.integers(0, 1000),
)
def test_clients_are_disjoint_and_have_as_many_rows_as_asked(
    clients: int, per_client: int, alpha: float, kind: Partition, extra: int, seed: int
) -> None:
    data = hand_out(source(), Shares(kind, clients, per_client, alpha, min(3, clients), extra), seed)
    texts = [row.text for row in everybody(data)]
    assert len(set(texts)) == len(texts) == clients * (per_client + extra)
    held = max(1, round(0.2 * per_client)) + extra
    assert all(len(client.holdout) == held for client in data.clients)


def test_equal_seeds_give_equal_shares_and_others_do_not() -> None:
    shares = Shares(Partition.DIRICHLET, 6, 100)
    assert hand_out(source(), shares, 1) == hand_out(source(), shares, 1)
    assert hand_out(source(), shares, 1) != hand_out(source(), shares, 2)


def test_a_smaller_alpha_gives_clients_more_uneven_labels() -> None:
    def largest_share(alpha: float) -> float:
        shares = [
            max(label_counts(client.train, 4)) / len(client.train)
            for seed in range(10)
            for client in hand_out(source(), Shares(Partition.DIRICHLET, 4, 100, alpha), seed).clients
        ]
        return float(np.mean(shares))

    assert largest_share(0.1) > 0.7
    assert largest_share(1.0) > largest_share(100.0) + 0.1
    assert largest_share(100.0) < 0.4


def test_holdout_rows_have_the_clients_own_label_shares() -> None:
    data = hand_out(source(), Shares(Partition.DIRICHLET, 3, 200, 0.3, extra_holdout=100), 4)
    for client in data.clients:
        train = np.array(label_counts(client.train, 4)) / len(client.train)
        holdout = np.array(label_counts(client.holdout, 4)) / len(client.holdout)
        assert np.abs(train - holdout).max() < 0.12


def test_iid_clients_have_the_sources_label_shares() -> None:
    for client in hand_out(source(), Shares(Partition.IID, 4, 250), 0).clients:
        assert max(label_counts(client.train, 4)) / len(client.train) < 0.36


def test_every_hidden_group_permutes_the_labels_its_own_way() -> None:
    original = {row.text: row.label for row in (*source().train, *source().validation)}
    data = hand_out(source(), Shares(Partition.GROUPS, 6, 50, groups=3), 7)
    assert data.groups == (0, 1, 2, 0, 1, 2)
    renaming: dict[int, dict[float, float]] = {}
    for client in data.clients:
        for row in (*client.train, *client.holdout):
            known = renaming.setdefault(client.group, {}).setdefault(original[row.text], row.label)
            assert known == row.label
    for one, other in itertools.combinations(renaming.values(), 2):
        assert all(one[label] != other[label] for label in range(4))
    for group, rows in enumerate(data.shared):
        assert all(row.label == renaming[group][original[row.text]] for row in rows)


@given(labels=st.integers(2, 12), groups=st.integers(1, 12), seed=st.integers(0, 100))
def test_groups_up_to_the_number_of_labels_agree_on_no_label(labels: int, groups: int, seed: int) -> None:
    groups = min(groups, labels)
    found = group_permutations(labels, groups, seed)
    assert found[0] == tuple(range(labels))
    assert all(sorted(names) == list(range(labels)) for names in found)
    for one, other in itertools.combinations(found, 2):
        assert all(a != b for a, b in zip(one, other, strict=True))


def test_beyond_that_groups_are_merely_different() -> None:
    found = group_permutations(3, 6, 0)
    assert len(set(found)) == 6
    with pytest.raises(FedhftError, match="too few permutations"):
        group_permutations(3, 7, 0)


def test_validation_rows_are_a_repeatable_sample_in_the_sources_order() -> None:
    data = hand_out(source(), Shares(Partition.IID, 2, 50, validation_rows=10), 3)
    numbers = [int(row.text.split()[1]) for row in data.shared[0]]
    assert len(numbers) == 10
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("shares", "field"),
    [
        (Shares(Partition.IID, 0, 50), "clients"),
        (Shares(Partition.IID, 2, 4), "per-client"),
        (Shares(Partition.IID, 2, 601), "per-client"),
        (Shares(Partition.IID, 2, 550, extra_holdout=51), "per-client"),
        (Shares(Partition.DIRICHLET, 2, 50, alpha=0.0), "alpha"),
        (Shares(Partition.GROUPS, 2, 50, groups=3), "groups"),
        (Shares(Partition.IID, 2, 50, validation_rows=0), "validation-rows"),
    ],
)
def test_shares_that_cannot_be_are_refused_by_field(shares: Shares, field: str) -> None:
    with pytest.raises(FedhftError, match=f"^{field} = ") as caught:
        hand_out(source(), shares, 0)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_data_without_labels_is_handed_out_evenly_or_not_at_all() -> None:
    made = Source("made", (), tuple(Example(f"{i}", None, i / 7) for i in range(100)), (Example("v", None, 0.5),))
    data = hand_out(made, Shares(Partition.IID, 2, 40), 0)
    assert {row.label for row in everybody(data)} <= {i / 7 for i in range(100)}
    with pytest.raises(FedhftError, match="has no labels"):
        hand_out(made, Shares(Partition.DIRICHLET, 2, 40), 0)


def test_what_is_written_for_agents_is_what_was_handed_out(tmp_path: Path) -> None:
    data = FederatedData(
        "made",
        ("x", "y"),
        (
            ClientRows("c-1", 0, (Example("ä", "b", 0),), (Example("h", None, 1),)),
            ClientRows("c-2", 1, (Example("b", None, 0),), (Example("i", None, 0),)),
        ),
        ((Example("s", None, 0),), (Example("s", None, 1),)),
        has_groups=True,
    )
    first, second = data.write(tmp_path)
    assert json.loads(first.train.read_text(encoding="utf-8")) == {"text": "ä", "text_pair": "b", "label": "x"}
    assert json.loads(second.shared.read_text()) == {"text": "s", "label": "y"}
    assert first.shared != second.shared
    assert data.majority() == 0.5
