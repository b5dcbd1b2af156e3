"""The federations of `benchmarks.clusters`: with hidden groups, without, and with groups that only differ in domain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fedhft.datasets.examples import Example
from fedhft.datasets.federated import FederatedData
from fedhft.datasets.partition import Partition, Shares, group_permutations, hand_out
from fedhft.datasets.source import read_source
from fedhft.demo.settings import DemoSettings, demo_data, demo_job
from fedhft.job import JobSpec, parse_job

DOMAINS = ("sst2", "mr", "cr", "mpqa")
"""Folders of one task, good or bad, in several domains; their labels mean the same."""
HOLDOUT = 0.2


@dataclass(frozen=True)
class Case:
    """One federation. rows: of each client for training. groups: hidden ones, in which labels mean different things;
    1 where there are none, 0 where groups are domains, so that the right number is not known.
    """

    name: str
    folder: str
    clients: int
    rows: int
    groups: int
    alpha: float | None = None
    """Skew of label shares; None draws rows evenly."""

    @property
    def per_client(self) -> int:
        """Rows with those held out."""
        return round(self.rows / (1 - HOLDOUT))


GROUPED = (
    Case("demo, 6 firms, 2 groups", "", 6, 0, 2),
    Case("ag_news, 4 x 120, 2 groups", "ag_news", 4, 120, 2),
    Case("ag_news, 12 x 60, 3 groups", "ag_news", 12, 60, 3),
    Case("ag_news, 36 x 60, 3 groups", "ag_news", 36, 60, 3),
)
PLAIN = tuple(
    Case(f"{folder}, 12 x 60, {how}", folder, 12, 60, 1, alpha)
    for folder in ("sst2", "snips", "ag_news")
    for how, alpha in (("even", None), ("alpha 1", 1.0), ("alpha .3", 0.3))
)
SKEWED = (
    Case("ag_news, 12 x 60, 3 groups, alpha .3", "ag_news", 12, 60, 3, 0.3),
    Case("ag_news, 12 x 120, 2 groups, alpha .3", "ag_news", 12, 120, 2, 0.3),
)
DOMAIN = (Case("four domains, 12 x 120", ",".join(DOMAINS), 12, 120, 0),)
CASES = (*GROUPED, *PLAIN, *SKEWED, *DOMAIN)


def data_of(case: Case, folder: Path, seed: int) -> FederatedData:
    """The rows of a case's clients. folder: holds the data sets, one folder each. Raises FedhftError."""
    if not case.folder:
        return demo_data(DemoSettings(Path(), clients=case.clients, groups=case.groups, seed=seed))
    if case.groups == 0:
        return _domains(case, folder, seed)
    source = read_source(folder / case.folder)
    if case.alpha is None:
        kind = Partition.GROUPS if case.groups > 1 else Partition.IID
        return hand_out(source, Shares(kind, case.clients, case.per_client, groups=case.groups), seed)
    drawn = hand_out(source, Shares(Partition.DIRICHLET, case.clients, case.per_client, case.alpha), seed)
    return _regrouped(drawn, case.groups, seed) if case.groups > 1 else drawn


def job_of(case: Case, data: FederatedData, model: str, seed: int, **method: object) -> JobSpec:
    """The demo's job over these rows; `method`: choices that differ from the preset's."""
    settings = DemoSettings(Path(), clients=case.clients, groups=max(1, case.groups), seed=seed)
    raw = demo_job(settings, "fedhft", data, model).model_dump(mode="json")
    raw["method"].update(method)
    return parse_job(raw)


def _domains(case: Case, folder: Path, seed: int) -> FederatedData:
    """Every fourth client from one data set; labels mean the same in all of them."""
    each = case.clients // len(DOMAINS)
    parts = [
        hand_out(read_source(folder / name), Shares(Partition.IID, each, case.per_client, validation_rows=500), seed)
        for name in DOMAINS
    ]
    clients = [
        replace(part.clients[number], client=f"client-{number * len(DOMAINS) + place + 1:02d}", group=place)
        for number in range(each)
        for place, part in enumerate(parts)
    ]
    return FederatedData(
        "domains", ("bad", "good"), tuple(clients), tuple(part.shared[0] for part in parts), has_groups=True
    )


def _regrouped(data: FederatedData, groups: int, seed: int) -> FederatedData:
    """The same rows, client i in group i % groups, each of which permutes the labels."""
    names = group_permutations(len(data.labels), groups, seed)

    def renamed(rows: tuple[Example, ...], group: int) -> tuple[Example, ...]:
        return tuple(replace(row, label=float(names[group][int(row.class_index)])) for row in rows)

    clients = tuple(
        replace(
            client,
            group=number % groups,
            train=renamed(client.train, number % groups),
            holdout=renamed(client.holdout, number % groups),
        )
        for number, client in enumerate(data.clients)
    )
    shared = tuple(renamed(data.shared[0], group) for group in range(groups))
    return replace(data, clients=clients, shared=shared, has_groups=True)
