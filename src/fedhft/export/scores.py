"""The final scores of an exported adapter's own clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedhft.export.mixture import ExportedMixture
from fedhft.rounds.summary import spread
from fedhft.v1 import jobs_pb2

_MOMENTS = ("before", "after")

Figure = float | None


@dataclass(frozen=True)
class AdapterScores:
    """Before and after one more local training; None where nothing was measured.

    results: of the clients that were scored. personal: mean over clients, and mean of their lowest tenth, on their own
    held-out rows. shared: on the common validation rows. losses: on own rows, mean over clients, and on common rows.
    metrics: name -> the same two before local training, and the mean of the constant answers.
    """

    results: tuple[jobs_pb2.ClientResult, ...]
    personal: tuple[tuple[Figure, Figure], ...]
    shared: tuple[Figure, ...]
    losses: tuple[tuple[Figure, ...], tuple[Figure, ...]] = ((None, None), (None, None))
    metrics: Mapping[str, tuple[Figure, Figure, Figure]] = field(default_factory=dict)


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
        (
            tuple(_mean(scored, f"personal_loss_{moment}") for moment in _MOMENTS),
            tuple(_mean(whole, f"shared_loss_{moment}") for moment in _MOMENTS),
        ),
        _metrics(scored, whole),
    )


def _metrics(
    scored: Sequence[jobs_pb2.ClientResult], whole: Sequence[jobs_pb2.ClientResult | jobs_pb2.RoundSummary]
) -> dict[str, tuple[Figure, Figure, Figure]]:
    names = dict.fromkeys(one.name for result in scored for one in result.metrics)
    found = {}
    for name in names:
        own = [one for result in scored for one in result.metrics if one.name == name]
        common = [one for result in whole for one in result.metrics if one.name == name]
        found[name] = (_mean(own, "personal_before"), _mean(common, "shared_before"), _mean(own, "floor"))
    return found


def _mean(
    messages: Sequence[jobs_pb2.ClientResult | jobs_pb2.RoundSummary | jobs_pb2.MetricFigures], name: str
) -> Figure:
    known = [float(getattr(one, name)) for one in messages if one.HasField(name)]  # type: ignore[arg-type]
    return sum(known) / len(known) if known else None


def _over(results: Sequence[jobs_pb2.ClientResult | jobs_pb2.RoundSummary], name: str) -> tuple[Figure, Figure]:
    """Mean of a figure, and its mean over the lowest tenth of the results (at least one)."""
    found = spread(getattr(result, name) if result.HasField(name) else None for result in results)  # type: ignore[arg-type]
    return (None, None) if found is None else found[:2]
