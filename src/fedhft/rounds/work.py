"""What a round's clients did, and where their time went: depth, steps, waiting, seconds by activity, energy."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

from fedhft.plan import steps_of
from fedhft.planning.estimates import Durations, bounded
from fedhft.rounds.summary import ClientReport
from fedhft.v1 import jobs_pb2


def work_of(reports: Sequence[ClientReport], batch_size: int) -> jobs_pb2.RoundWork | None:
    """The work of a round; None where nobody reported.

    Durations that cannot have been measured are left out; others are worth no more than the server saw pass.
    """
    if not reports:
        return None
    depths = [report.participant.plan.depth for report in reports]
    arrived = [report.seconds for report in reports if report.seconds is not None]
    last = max(arrived, default=0.0)
    work = jobs_pb2.RoundWork(
        depth_mean=sum(depths) / len(depths),
        depth_least=min(depths),
        depth_most=max(depths),
        steps=sum(report.measurements.steps for report in reports),
        waiting=fsum(last - seconds for seconds in arrived) / len(arrived) / last if last > 0 else 0.0,
    )
    measured = [(report, told) for report in reports if (told := _told(report, batch_size)) is not None]
    spent = [_spent(report, told) for report, told in measured]
    if spent:
        for field in jobs_pb2.TimeSpent.DESCRIPTOR.fields:
            setattr(work.seconds, field.name, fsum(getattr(one, field.name) for one in spent) / len(spent))
        work.seconds.wait = fsum(last - seconds for seconds in arrived) / len(arrived) if arrived else 0.0
    joules = [told.energy for _, told in measured if told.energy]
    work.energy_joules = fsum(joules) / len(joules) if joules else 0.0
    return work


def _told(report: ClientReport, batch_size: int) -> Durations | None:
    """A client's durations, as far as they are believed; None where it measured none, or what it says cannot be."""
    measured, plan = report.measurements, report.participant.plan
    if not measured.HasField("durations"):
        return None
    told = Durations.of(measured.durations)
    steps = steps_of(report.samples, batch_size, plan.epochs, plan.max_steps)
    if told.problem(plan.depth, steps, steps_of(report.samples, batch_size, 1.0, 0)):
        return None
    return told if report.seconds is None else bounded(told, report.seconds)


def _spent(report: ClientReport, told: Durations) -> jobs_pb2.TimeSpent:
    measured = report.measurements
    computing = told.forward + told.backward + told.other
    # Rows are passed through the frozen layers when they are first scored, inside the time of scoring.
    score = min(max(0.0, measured.evaluate_seconds - told.fill), computing)
    train = min(measured.train_seconds, computing)
    return jobs_pb2.TimeSpent(
        fetch=told.down,
        fill=told.fill,
        train=train,
        score=score,
        code=max(0.0, computing - told.fill - score - train),
        send=told.up,
    )
