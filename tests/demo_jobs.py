"""Finished jobs as the Jobs service tells of them, for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Sequence

from fedhft.datasets.examples import Example
from fedhft.datasets.federated import ClientRows, FederatedData
from fedhft.job import JobSpec, parse_job
from fedhft.v1 import clustering_pb2, jobs_pb2

CLIENTS = ("a-1", "a-2", "b-1", "b-2")


def small_data(groups: tuple[int, ...] = (0, 0, 1, 1)) -> FederatedData:
    """Four clients with 4, 8, 4 and 8 training rows."""
    clients = tuple(
        ClientRows(
            name,
            group,
            tuple(Example(f"{name} t{index}", None, index % 2) for index in range(4 + 4 * (place % 2))),
            tuple(Example(f"{name} h{index}", None, index % 2) for index in range(2)),
        )
        for place, (name, group) in enumerate(zip(CLIENTS, groups, strict=True))
    )
    shared = tuple((Example("s", None, group % 2),) for group in range(max(groups) + 1))
    return FederatedData("made rows", ("no", "yes"), clients, shared, has_groups=max(groups) > 0)


def spec_of(method: str = "fedhft", rounds: int = 2) -> JobSpec:
    """A job of the small data."""
    return parse_job(
        {
            "name": f"demo-{method}",
            "seed": 3,
            "clients": list(CLIENTS),
            "model": {"name": "some/model"},
            "task": {"labels": ["no", "yes"]},
            "method": {"preset": method},
            "rounds": {"total": rounds, "min_clients": 4},
        }
    )


def finished_job(
    spec: JobSpec, memberships: Sequence[tuple[float, ...]] = ((1, 0), (1, 0), (0, 1), (0, 1))
) -> jobs_pb2.Job:
    """Two rounds and a final evaluation. Everything measured differs, so a mixed-up field shows."""

    def summary(number: int) -> jobs_pb2.RoundSummary:
        return jobs_pb2.RoundSummary(
            round=number,
            seconds=number * 1.5,
            asked=4,
            accepted=4,
            socket_bytes_up=1000 * number,
            socket_bytes_down=2000 * number,
            shared_before=0.1 * number,
            shared_after=0.1 * number + 0.05,
            shared_mass_weighted=0.1 * number + 0.01,
            personal_before_mean=0.2 * number,
            personal_before_worst_tenth=0.2 * number - 0.05,
            personal_before_worst=0.2 * number - 0.1,
            personal_after_mean=0.3 * number,
            personal_after_worst_tenth=0.3 * number - 0.05,
            personal_after_worst=0.3 * number - 0.1,
            personal_loss_before_median=0.14 * number,
            shared_loss_before=0.17 * number,
            metrics=[
                jobs_pb2.MetricFigures(name="accuracy", personal_before=0.2 * number, shared_before=0.1 * number),
                jobs_pb2.MetricFigures(
                    name="macro_f1", personal_before=0.2 * number - 0.02, shared_before=0.1 * number - 0.01, floor=0.25
                ),
            ],
            cluster_sizes=[2, 2],
        )

    results = [
        jobs_pb2.ClientResult(
            client=name,
            tier="density-1",
            samples=10,
            personal_before=0.4 + place / 10,
            personal_after=0.5 + place / 10,
            peak_rss_bytes=(place + 1) * 2**20,
            socket_bytes_sent=800 + place,
            socket_bytes_received=1600 + place,
        )
        for place, name in enumerate(CLIENTS)
    ]
    return jobs_pb2.Job(
        job=spec.name,
        status="completed",
        spec_json=spec.canonical(),
        rounds_done=2,
        clients=CLIENTS,
        history=[summary(1), summary(2)],
        final=summary(3),
        results=results,
        memberships=clustering_pb2.Memberships(
            job=spec.name,
            version=2,
            clusters=len(memberships[0]),
            rows=[
                clustering_pb2.Membership(client=name, weights=row)
                for name, row in zip(CLIENTS, memberships, strict=True)
            ],
        ),
    )
