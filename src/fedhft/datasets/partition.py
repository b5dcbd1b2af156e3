"""Partitions real data (source.py) among clients: by Dirichlet label shares, with hidden groups, or evenly.

dirichlet: client i draws label shares p_i ~ Dir(alpha, ..., alpha) and then its rows by them (Hsu, Qi and Brown 2019,
arXiv 1909.06335): the smaller alpha, the fewer labels a client has. groups: rows are drawn evenly, and every hidden
group of clients has its own permutation of the labels, so that what one group calls `World` another calls `Sports`.
iid: evenly.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from fedhft.datasets.examples import Example
from fedhft.datasets.federated import ClientRows, FederatedData
from fedhft.datasets.source import Source
from fedhft.errors import ErrorCode, FedhftError
from fedhft.seeds import seed_of

OWN_HOLDOUT = 0.2
"""Share of a client's rows held out for its personal score."""


class Partition(StrEnum):
    """How rows are partitioned."""

    DIRICHLET = "dirichlet"
    GROUPS = "groups"
    IID = "iid"


@dataclass(frozen=True)
class Shares:
    """How a source is partitioned.

    per_client: rows of each client; a fifth of them is held out.
    extra_holdout: further held-out rows, with the same label shares, for steadier personal scores.
    validation_rows: largest number of shared validation rows.
    """

    kind: Partition
    clients: int
    per_client: int
    alpha: float = 1.0
    groups: int = 1
    extra_holdout: int = 0
    validation_rows: int = 2000


def group_permutations(labels: int, groups: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """One permutation of 0..labels-1 per group (class -> what the group calls it); the first group's is the identity.

    For up to as many groups as labels they are powers of one cycle through all labels, so no two groups agree on any
    label. For more they are only distinct. Raises FedhftError(INVALID_ARGUMENT) beyond labels! groups.
    """
    if groups < 1 or labels < 1 or groups > math.factorial(min(labels, 12)):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "groups", groups, f"{labels} labels have too few permutations",
            "use fewer groups, at least one",
        )  # fmt: skip
    rng = random.Random(seed_of("permutations", seed, labels))
    cycle = list(range(labels))
    rng.shuffle(cycle)
    place = {label: index for index, label in enumerate(cycle)}
    found = [
        tuple(cycle[(place[label] + step) % labels] for label in range(labels)) for step in range(min(groups, labels))
    ]
    while len(found) < groups:
        candidate = list(range(labels))
        rng.shuffle(candidate)
        if tuple(candidate) not in found:
            found.append(tuple(candidate))
    return tuple(found)


def hand_out(source: Source, shares: Shares, seed: int) -> FederatedData:
    """Disjoint rows for every client. Client i is in group i % groups. The same arguments give the same data.

    Raises FedhftError(INVALID_ARGUMENT) when the source has too few rows or no labels to share by.
    """
    _check(source, shares)
    classes = max(1, len(source.labels))
    groups = shares.groups if shares.kind is Partition.GROUPS else 1
    rng = np.random.default_rng(seed_of("partition", seed))
    pools = _pools(source, classes, rng)
    held = max(1, round(OWN_HOLDOUT * shares.per_client)) + shares.extra_holdout
    names = group_permutations(classes, groups, seed) if source.labels else ((0,),)
    digits = max(2, len(str(shares.clients)))
    clients = []
    for number in range(shares.clients):
        proportions = _proportions(shares, pools, rng)
        chosen = _draw(pools, proportions, shares.per_client + shares.extra_holdout, rng)
        rows = [_renamed(source.train[index], names[number % groups]) for index in chosen]
        clients.append(
            ClientRows(f"client-{number + 1:0{digits}d}", number % groups, tuple(rows[held:]), tuple(rows[:held]))
        )
    order = rng.permutation(len(source.validation))[: shares.validation_rows]
    common = [source.validation[index] for index in sorted(order)]
    shared = tuple(tuple(_renamed(row, names[group]) for row in common) for group in range(groups))
    return FederatedData(source.name, source.labels, tuple(clients), shared, has_groups=groups > 1)


def _check(source: Source, shares: Shares) -> None:
    def refuse(field: str, value: object, problem: str, fix: str) -> FedhftError:
        return FedhftError.field(ErrorCode.INVALID_ARGUMENT, field, value, problem, fix)

    if shares.clients < 1:
        raise refuse("clients", shares.clients, "a federation needs clients", "use 1 or more")
    if shares.per_client < 5:
        raise refuse("per-client", shares.per_client, "too few rows to hold out a fifth", "use 5 or more")
    if shares.extra_holdout < 0 or shares.validation_rows < 1:
        raise refuse("validation-rows", shares.validation_rows, "must be positive", "use 1 or more")
    if shares.kind is Partition.DIRICHLET and not shares.alpha > 0:
        raise refuse("alpha", shares.alpha, "must be positive", "use 1.0, say; smaller means more skew")
    if not source.labels and shares.kind is not Partition.IID:
        raise refuse("partition", str(shares.kind), f"{source.name} has no labels to partition by", "use iid")
    if not 1 <= shares.groups <= shares.clients:
        raise refuse("groups", shares.groups, f"there are {shares.clients} clients", "use 1 to that many groups")
    needed = shares.clients * (shares.per_client + shares.extra_holdout)
    if needed > len(source.train):
        raise refuse(
            "per-client", shares.per_client,
            f"{shares.clients} clients need {needed} rows, {source.name} has {len(source.train)}",
            f"use at most {len(source.train) // shares.clients - shares.extra_holdout}",
        )  # fmt: skip


def _pools(source: Source, classes: int, rng: np.random.Generator) -> list[list[int]]:
    """Row indices by class, each in random order."""
    pools: list[list[int]] = [[] for _ in range(classes)]
    for index in rng.permutation(len(source.train)):
        pools[int(source.train[index].class_index) if source.labels else 0].append(int(index))
    return pools


def _proportions(shares: Shares, pools: list[list[int]], rng: np.random.Generator) -> NDArray[np.float64]:
    if shares.kind is Partition.DIRICHLET:
        return rng.dirichlet(np.full(len(pools), shares.alpha))
    sizes = np.array([len(pool) for pool in pools], np.float64)
    even: NDArray[np.float64] = sizes / sizes.sum()
    return even


def _draw(pools: list[list[int]], proportions: NDArray[np.float64], count: int, rng: np.random.Generator) -> list[int]:
    """Take `count` rows by label proportions; the share of a class that runs out goes to the others."""
    chosen: list[int] = []
    while len(chosen) < count:
        left = np.array([len(pool) for pool in pools], np.float64)
        weights = np.where(left > 0, proportions, 0.0)
        if weights.sum() <= 1e-12:
            weights = left
        wanted = rng.multinomial(count - len(chosen), weights / weights.sum())
        for pool, number in zip(pools, wanted, strict=True):
            taken = min(int(number), len(pool))
            chosen.extend(pool[len(pool) - taken :])
            del pool[len(pool) - taken :]
    return [chosen[index] for index in rng.permutation(len(chosen))]


def _renamed(row: Example, names: tuple[int, ...]) -> Example:
    return Example(row.text, row.text_pair, float(names[int(row.class_index)])) if len(names) > 1 else row
