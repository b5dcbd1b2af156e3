"""The final scores of an exported adapter's own clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedhft.export.mixture import ExportedMixture
from fedhft.rounds.summary import spread
from fedhft.v1 import jobs_pb2

_MOMENTS = ("before", "after")

Figure = float | None


@dataclass(frozen=True)
class AdapterScores:
    """Before and after one more local training; None where nothing was measured.

    results: of the clients that were scored. personal: mean over clients, and mean of their lowest tenth, on their own
    held-out rows. shared: on the common validation rows.
    """

    results: tuple[jobs_pb2.ClientResult, ...]
    personal: tuple[tuple[Figure, Figure], ...]
    shared: tuple[Figure, ...]


def adapter_scores(job: jobs_pb2.Job, exported: ExportedMixture) -> AdapterScores:
    """Scores of the clients that the adapter belongs to, and of no others."""
    scored = tuple(result for result in job.results if result.client in exported.clients)
    # Clients may score unequal shares of the common rows; for all clients together the job has the mean over rows.
    alone = len(exported.weights) == 1 and not exported.of_one_client
    whole: Sequence[jobs_pb2.ClientResult | jobs_pb2.RoundSummary] = [job.final] if alone and scored else scored
    return AdapterScores(
        scored,
        tuple(_over(scored, f"personal_{moment}") for moment in _MOMENTS),
        tuple(_over(whole, f"shared_{moment}")[0] for moment in _MOMENTS),
    )


def _over(results: Sequence[jobs_pb2.ClientResult | jobs_pb2.RoundSummary], name: str) -> tuple[Figure, Figure]:
    """Mean of a figure, and its mean over the lowest tenth of the results (at least one)."""
    found = spread(getattr(result, name) if result.HasField(name) else None for result in results)  # type: ignore[arg-type]
    return (None, None) if found is None else found[:2]
