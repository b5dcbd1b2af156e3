"""Figures of a round from what its clients reported: scores, bytes, memory, per client and overall."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, median_low

from fedhft.aggregation.mixture import strongest
from fedhft.errors import FedhftError
from fedhft.records import Participant, RoundRecord, Traffic, UpdateRecord
from fedhft.rounds.reports import read_report
from fedhft.v1 import federation_pb2, jobs_pb2

MOST_NAMED = 20
"""Most clients that a round's summary names where it can only name some."""


@dataclass(frozen=True)
class ClientReport:
    """What one client reported with its update or evaluation."""

    client: str
    samples: int
    participant: Participant
    scores: tuple[federation_pb2.Score, ...]
    measurements: federation_pb2.Measurements
    signature: tuple[float, ...]
    size: int = 0
    """Bytes of its update; 0 where nothing was sent."""
    seconds: float | None = None
    """From the round's opening to when its update was here; None in records of earlier releases."""

    @property
    def traffic(self) -> Traffic:
        """Bytes since it joined."""
        m = self.measurements
        return (m.socket_bytes_sent, m.socket_bytes_received, m.payload_bytes_sent, m.payload_bytes_received)

    def score(
        self,
        split: federation_pb2.Score.Split.ValueType,
        moment: federation_pb2.Score.Moment.ValueType,
        view: federation_pb2.Score.View.ValueType = federation_pb2.Score.VIEW_OWN,
    ) -> federation_pb2.Score | None:
        """The score of this split, moment and view, if it was measured on at least one row."""
        for score in self.scores:
            if (score.split, score.moment, score.view) == (split, moment, view) and score.rows:
                return score
        return None


def report_of(current: RoundRecord, update: UpdateRecord) -> ClientReport:
    """What was reported with an update of the round. Raises DAMAGED_RECORD; KeyError for a client not asked."""
    header = read_report(update.report)
    return ClientReport(
        client=update.client,
        samples=update.samples,
        participant=current.participants[update.client],
        scores=tuple(header.scores),
        measurements=header.measurements,
        signature=tuple(header.signature),
        size=update.size,
        seconds=update.seconds,
    )


def readable_reports(
    current: RoundRecord, updates: Mapping[str, UpdateRecord]
) -> tuple[tuple[ClientReport, ...], dict[str, str]]:
    """Reports of a round's updates, in client order; and, client -> reason, those that cannot be summarised."""
    reports: list[ClientReport] = []
    unreadable: dict[str, str] = {}
    for client in sorted(updates):
        try:
            report = report_of(current, updates[client])
            numbers = [x for score in report.scores for x in (score.value, score.loss, score.majority, *score.sums)]
            numbers += [x for score in report.scores for one in score.metrics for x in (one.value, one.floor)]
            if not all(math.isfinite(number) for number in numbers):
                raise ValueError("scores that are not finite")
            reports.append(report)
        except (FedhftError, KeyError, ValueError) as error:
            unreadable[client] = f"its report cannot be read: {error}"
    return tuple(reports), unreadable


def pooled(
    scores: Iterable[federation_pb2.Score | None],
    of: Callable[[federation_pb2.Score], float] = lambda score: score.value,
) -> float | None:
    """Mean over rows: exact for accuracies of disjoint shards. None where nothing was scored.

    Shards of one split differ by one row at most, so a report of more rows than the (low) median and one weighs no more
    than that: whatever it claims, it counts like one client.
    """
    known = [score for score in scores if score is not None]
    if not known:
        return None
    most = median_low(score.rows for score in known) + 1
    weights = [min(score.rows, most) for score in known]
    total = sum(weights)
    return sum(of(score) * weight for score, weight in zip(known, weights, strict=True)) / total if total else None


def spread(values: Iterable[float | None]) -> tuple[float, float, float] | None:
    """Mean, mean of the worst tenth of clients (the bottom decile, at least one), worst."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    tenth = known[: max(1, math.ceil(len(known) / 10))]
    return (math.fsum(known) / len(known), math.fsum(tenth) / len(tenth), known[0])


def cluster_sizes(rows: Iterable[Sequence[float]], clusters: int) -> list[int]:
    """Clients per cluster, by their largest membership (ties: the lower cluster)."""
    sizes = [0] * clusters
    for row in rows:
        sizes[strongest(row)] += 1
    return sizes


def summarise(
    current: RoundRecord,
    reports: Sequence[ClientReport],
    before: Mapping[str, Traffic],
    now_ms: int,
) -> jobs_pb2.RoundSummary:
    """Summary of a round. `before` is each client's traffic as of its last report, so that bytes are this round's."""
    score = federation_pb2.Score
    summary = jobs_pb2.RoundSummary(
        round=current.number,
        seconds=max(0, now_ms - current.opened_ms) / 1000,
        asked=len(current.participants),
        accepted=len(reports),
        membership_version=current.membership_version,
        cluster_sizes=cluster_sizes((p.memberships for p in current.participants.values()), current.clusters),
    )
    moved = [_moved(r.traffic, before.get(r.client, (0, 0, 0, 0))) for r in reports]
    if moved:
        sums = [sum(column) for column in zip(*moved, strict=True)]
        summary.socket_bytes_up, summary.socket_bytes_down = sums[0], sums[1]
        summary.payload_bytes_up, summary.payload_bytes_down = sums[2], sums[3]
        peaks = [r.measurements.peak_rss_bytes for r in reports]
        summary.peak_rss_bytes_max = max(peaks)
        summary.peak_rss_bytes_mean = sum(peaks) / len(peaks)
        summary.train_seconds_mean = sum(r.measurements.train_seconds for r in reports) / len(reports)
        summary.evaluate_seconds_mean = sum(r.measurements.evaluate_seconds for r in reports) / len(reports)
    dealt = [r for r in reports if r.participant.shard is not None]  # nobody else was given shared rows to score
    for name, moment, view in (
        ("before", score.MOMENT_BEFORE, score.VIEW_OWN),
        ("after", score.MOMENT_AFTER, score.VIEW_OWN),
        ("mass_weighted", score.MOMENT_BEFORE, score.VIEW_MASS_WEIGHTED),
    ):
        shares = [r.score(score.SPLIT_SHARED, moment, view) for r in dealt]
        value, loss = pooled(shares), pooled(shares, lambda share: share.loss)
        if value is not None and loss is not None:
            setattr(summary, f"shared_{name}", value)
            setattr(summary, f"shared_loss_{name}", loss)
    for name, moment in (("personal_before", score.MOMENT_BEFORE), ("personal_after", score.MOMENT_AFTER)):
        found = spread(_value(r.score(score.SPLIT_PERSONAL, moment)) for r in reports)
        if found:
            for suffix, value in zip(("mean", "worst_tenth", "worst"), found, strict=True):
                setattr(summary, f"{name}_{suffix}", value)
        losses = [scored.loss for r in reports if (scored := r.score(score.SPLIT_PERSONAL, moment))]
        if losses:
            setattr(summary, f"{name.replace('personal', 'personal_loss')}_median", median(losses))
    majorities = [_majority(r) for r in reports if r.score(score.SPLIT_PERSONAL, score.MOMENT_BEFORE)]
    if any(majorities):
        summary.personal_majority_mean = math.fsum(majorities) / len(majorities)
    summary.update_bytes, summary.update_raw_bytes = _coded(reports)
    summary.tiers.extend(tier_figures(reports))
    return summary


def tier_figures(reports: Sequence[ClientReport]) -> list[jobs_pb2.TierFigures]:
    """Memory and bytes of a round by tier, in ascending order of names."""
    by_tier: dict[str, list[ClientReport]] = {}
    for report in reports:
        by_tier.setdefault(report.participant.plan.tier, []).append(report)
    figures = []
    for tier, own in sorted(by_tier.items()):
        peaks = [r.measurements.peak_rss_bytes for r in own]
        sent, raw = _coded(own)
        figures.append(
            jobs_pb2.TierFigures(
                tier=tier,
                clients=len(own),
                peak_rss_bytes_max=max(peaks),
                peak_rss_bytes_mean=sum(peaks) / len(peaks),
                update_bytes=sent,
                update_raw_bytes=raw,
                peak_device_bytes_max=max(r.measurements.peak_device_bytes for r in own),
            )
        )
    return figures


def results_of(reports: Sequence[ClientReport]) -> list[jobs_pb2.ClientResult]:
    """Final figures by client."""
    score = federation_pb2.Score
    results = []
    for report in reports:
        result = jobs_pb2.ClientResult(
            client=report.client,
            tier=report.participant.plan.tier,
            samples=report.samples,
            memberships=report.participant.memberships,
            majority=_majority(report),
            peak_rss_bytes=report.measurements.peak_rss_bytes,
            peak_device_bytes=report.measurements.peak_device_bytes,
            socket_bytes_sent=report.measurements.socket_bytes_sent,
            socket_bytes_received=report.measurements.socket_bytes_received,
        )
        for name, split, moment in (
            ("personal_before", score.SPLIT_PERSONAL, score.MOMENT_BEFORE),
            ("personal_after", score.SPLIT_PERSONAL, score.MOMENT_AFTER),
            ("shared_before", score.SPLIT_SHARED, score.MOMENT_BEFORE),
            ("shared_after", score.SPLIT_SHARED, score.MOMENT_AFTER),
        ):
            found = report.score(split, moment)
            if found is not None:
                setattr(result, name, found.value)
                setattr(result, "_loss_".join(name.split("_")), found.loss)
        results.append(result)
    return results


def _coded(reports: Iterable[ClientReport]) -> tuple[int, int]:
    """Bytes of updates as they were sent, and before coding."""
    sent = [(r.size, r.measurements.raw_bytes_sent) for r in reports if r.size]
    return sum(size for size, _ in sent), sum(raw for _, raw in sent)


def _majority(report: ClientReport) -> float:
    return next((s.majority for s in report.scores if s.split == federation_pb2.Score.SPLIT_PERSONAL), 0.0)


def _moved(now: Traffic, before: Traffic) -> Traffic:
    """Bytes since `before`; counters that fell belong to an agent that restarted, and count from zero."""
    if any(a < b for a, b in zip(now, before, strict=True)):
        return now
    return (now[0] - before[0], now[1] - before[1], now[2] - before[2], now[3] - before[3])


def _value(score: federation_pb2.Score | None) -> float | None:
    return None if score is None else score.value
