"""The card of an exported adapter: whose scores it shows, what it tells hubs and readers."""

from __future__ import annotations

import re

import pytest

from fedhft.adapter import AdapterSchema, Parameter
from fedhft.export.mixture import ExportedMixture
from fedhft.export.model_card import model_card
from fedhft.job import JobSpec, parse_job
from fedhft.training.tasks import kind_for
from fedhft.v1 import jobs_pb2
from tests.demo_jobs import CLIENTS, finished_job, spec_of

SCHEMA = AdapterSchema("base", "tokenizer", "tiny", ("no", "yes"), 1, (), (Parameter("classifier.weight", (2, 4)),))
MEMBERSHIPS = {"a-1": (0.9, 0.1), "a-2": (0.5, 0.5), "b-1": (0.2, 0.8), "b-2": (0.0, 1.0)}
"""Clients score 0.4, 0.5, 0.6 and 0.7 before local training, 0.1 more after it."""


def evaluated(spec: JobSpec) -> jobs_pb2.Job:
    """A finished job of which every client also scored the common rows, each another value."""
    job = finished_job(spec)
    for place, result in enumerate(job.results):
        result.shared_before, result.shared_after = 0.2 + place / 100, 0.3 + place / 100
    return job


def card_of(exported: ExportedMixture, job: jobs_pb2.Job | None = None, spec: JobSpec | None = None) -> str:
    spec = spec or spec_of()
    return model_card(spec, SCHEMA, job or evaluated(spec), 2, exported, "some/model")


def table(card: str) -> list[list[str]]:
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in card.splitlines() if line.startswith("| ")]
    return [row for row in rows if set(row) != {"---"}]


def test_a_clusters_card_shows_the_scores_of_its_own_members() -> None:
    card = card_of(ExportedMixture.of_cluster(1, 2, CLIENTS, MEMBERSHIPS))
    assert table(card) == [
        [
            "score over 2 of 4 clients, those whose largest membership this cluster is",
            "before local training",
            "after",
        ],
        ["own held-out rows, mean of the clients", "0.650", "0.750"],
        ["own held-out rows, mean of the lowest tenth of the clients", "0.600", "0.700"],
        ["common validation rows", "0.225", "0.325"],
    ]
    assert "* weights over the 2 cluster(s): 0.000, 1.000" in card
    assert "* clients of this cluster: 2 of 4" in card
    assert "its own mixture of the clusters" in card


def test_a_client_between_clusters_belongs_to_the_first_of_them() -> None:
    assert ExportedMixture.of_cluster(0, 2, CLIENTS, MEMBERSHIPS).clients == ("a-1", "a-2")


def test_a_client_without_a_membership_belongs_to_no_cluster() -> None:
    known = {client: row for client, row in MEMBERSHIPS.items() if client != "a-1"}
    assert ExportedMixture.of_cluster(0, 2, CLIENTS, known).clients == ("a-2",)


def test_the_card_of_the_only_cluster_shows_the_scores_of_all_clients() -> None:
    card = card_of(ExportedMixture.of_cluster(0, 1, CLIENTS, {}))
    assert table(card) == [
        ["score over all 4 clients", "before local training", "after"],
        ["own held-out rows, mean of the clients", "0.550", "0.650"],
        ["own held-out rows, mean of the lowest tenth of the clients", "0.400", "0.500"],
        ["common validation rows", "0.300", "0.350"],  # the job's own, weighted by rows
        ["loss on common validation rows", "0.510", "not measured"],
    ]
    assert "its own mixture" not in card


def test_the_card_of_a_clients_mixture_shows_that_clients_scores_alone() -> None:
    card = card_of(ExportedMixture.of_client("b-1", (0.2, 0.8)))
    assert table(card) == [
        ["score of client b-1", "before local training", "after"],
        ["own held-out rows", "0.600", "0.700"],
        ["common validation rows", "0.220", "0.320"],
    ]
    assert "# demo-fedhft, client-b-1" in card
    assert "clients of this cluster" not in card


def test_members_that_were_not_scored_are_not_counted() -> None:
    job = evaluated(spec_of())
    del job.results[3]
    for result in job.results:
        result.ClearField("shared_after")
    head, mean, _, shared = table(card_of(ExportedMixture.of_cluster(1, 2, CLIENTS, MEMBERSHIPS), job))
    assert head[0].startswith("score over 1 of 4 clients")
    assert mean[1:] == ["0.600", "0.700"]
    assert shared[1:] == ["0.220", "not measured"]


@pytest.mark.parametrize("memberships", [MEMBERSHIPS, dict.fromkeys(CLIENTS, (1.0, 0.0))])
def test_a_card_without_scored_clients_says_so(memberships: dict[str, tuple[float, float]]) -> None:
    job = evaluated(spec_of())
    if memberships is MEMBERSHIPS:
        del job.results[:]
    card = card_of(ExportedMixture.of_cluster(1, 2, CLIENTS, memberships), job)
    assert table(card) == []
    assert "none of this adapter's clients took part in a final evaluation" in card


def test_a_card_begins_with_what_hubs_read() -> None:
    card = card_of(ExportedMixture.of_cluster(0, 1, CLIENTS, {}))
    _, matter, rest = card.split("---\n", 2)
    assert matter.splitlines() == [
        "library_name: peft",
        "pipeline_tag: text-classification",
        "tags: [fedhft, federated-learning]",
        "base_model: some/model",
    ]
    assert rest.startswith("\n# demo-fedhft, cluster-0\n")
    assert "base_model:" not in model_card(
        spec_of(), SCHEMA, evaluated(spec_of()), 2, ExportedMixture.of_cluster(0, 1, CLIENTS, {}), "/models/mine"
    )


def test_labels_and_width_of_the_head_are_the_tasks() -> None:
    everybody = ExportedMixture.of_cluster(0, 1, CLIENTS, {})
    card = card_of(everybody)
    assert "* labels: no, yes\n" in card
    assert 'from_pretrained("some/model", num_labels=2, dtype=torch.float32)' in card
    numbers = parse_job({"name": "n", "model": {"name": "m"}, "task": {"kind": kind_for(())}})
    card = card_of(everybody, spec=numbers)
    assert "* labels: none" in card
    assert "num_labels=1," in card
