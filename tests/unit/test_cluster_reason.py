"""The line that says why there are so many clusters (fedhft.jobs.cluster_reason)."""

from __future__ import annotations

from typing import Any

import pytest

from fedhft.jobs.cluster_reason import common_view, reason
from fedhft.v1 import clustering_pb2, jobs_pb2


def told(clusters: int, **choice: Any) -> clustering_pb2.Memberships:
    found = {"found": clusters, "voters": 6, "reliability": 0.39, "says_something": True, **choice}
    return clustering_pb2.Memberships(
        version=3, clusters=clusters, confidence=0.99, choice=clustering_pb2.ClusterChoice(**found)
    )


TWO = [clustering_pb2.TriedClusters(clusters=2, gain=0.38, step=0.38, t=18.4)]


@pytest.mark.parametrize(
    ("memberships", "said"),
    [
        (clustering_pb2.Memberships(), ""),
        (clustering_pb2.Memberships(version=1, clusters=3, confidence=0.4),
         "3 clusters, confidence 0.40; the job, or an earlier release, fixed the number"),
        (told(2, tried=TWO),
         "2 clusters, confidence 0.99; 6 clients voted, whose halves agree by 0.39: 2 clusters predict unseen halves "
         "best (gain 0.38, t = 18.4)"),
        (told(1),
         "1 cluster; 6 clients voted, whose halves agree by 0.39: no split predicts unseen halves better than all "
         "clients together do"),
        (told(1, voters=3, says_something=False),
         "1 cluster; 3 clients voted, whose halves agree by 0.39, which is too little to tell clusters by"),
    ],
)  # fmt: skip
def test_the_line_says_how_many_why_and_how_sure(memberships: clustering_pb2.Memberships, said: str) -> None:
    assert reason(memberships) == said


def test_a_number_on_its_way_and_one_that_is_kept_are_told() -> None:
    assert reason(told(2, found=1, candidate=1, times=1)).endswith("; 1 asked for by the last clustering")
    assert reason(told(2, found=3, candidate=3, times=2)).endswith("; 3 asked for by the last 2 clusterings")
    assert reason(told(2, found=1)).endswith("; what there is still gains enough to be kept")


def test_one_model_for_everybody_is_offered_where_there_are_clusters_and_it_was_scored() -> None:
    job = jobs_pb2.Job(job="j", memberships=told(2))
    assert common_view(job) == ""
    job.final.shared_mass_weighted, job.final.shared_before = 0.7, 0.625
    assert "0.700" in common_view(job)
    assert "0.625" in common_view(job)
    assert "fedhft job export j --view mass-weighted" in common_view(job)
    job.memberships.clusters = 1
    assert common_view(job) == ""
