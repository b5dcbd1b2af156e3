"""What a round's summary says of its clients' work: depth, steps, waiting, and where the time went."""

from __future__ import annotations

import pytest

from fedhft.plan import AdapterPlan
from fedhft.records import Participant
from fedhft.rounds.summary import ClientReport
from fedhft.rounds.work import work_of
from fedhft.v1 import capacity_pb2, federation_pb2


def report(client: str, depth: int = 2, seconds: float | None = 10.0, **durations: float) -> ClientReport:
    plan = AdapterPlan("t", depth, 1.0, 1.0, 0, True, True)
    measured = federation_pb2.Measurements(steps=4, train_seconds=3.0, evaluate_seconds=2.0)
    if durations:
        usual = {"forward_layer_steps": 100.0, "backward_layer_steps": 100.0, **durations}
        measured.durations.CopyFrom(capacity_pb2.Durations(**usual))
    return ClientReport(
        client, 64, Participant(plan=plan, memberships=(1.0,), samples=64), (), measured, (), seconds=seconds
    )


def test_depths_steps_and_waiting_are_over_the_clients() -> None:
    work = work_of([report("a", 1, 4.0), report("b", 3, 10.0)], 16)
    assert work is not None
    assert (work.depth_mean, work.depth_least, work.depth_most, work.steps) == (2.0, 1, 3, 8)
    assert work.waiting == pytest.approx(0.3)
    assert not work.HasField("seconds")


def test_seconds_add_up_to_what_the_server_saw_without_those_of_the_update_before() -> None:
    times = {"forward_seconds": 3.0, "backward_seconds": 1.0, "other_seconds": 2.0, "fill_seconds": 0.5}
    one = report("a", seconds=8.0, down_seconds=1.0, up_seconds=7.0, **times)
    work = work_of([one, report("b", seconds=12.0)], 16)
    assert work is not None
    spent = work.seconds
    assert (spent.fetch, spent.fill, spent.train, spent.score, spent.send) == (1.0, 0.5, 3.0, 1.5, 7.0)
    # One second more passed than the client told of: it is with the rest.
    assert spent.fetch + spent.fill + spent.train + spent.score + spent.code == pytest.approx(8.0)
    assert spent.wait == pytest.approx(2.0)


def test_what_cannot_have_been_measured_is_left_out_and_the_rest_is_bounded_by_what_was_seen() -> None:
    broken = report("a", forward_seconds=float("nan"))
    idle = report("b", forward_seconds=1.0, forward_layer_steps=0.0)
    boasting = report("c", seconds=10.0, forward_seconds=1e9)
    work = work_of([broken, idle, boasting], 16)
    assert work is not None
    spent = work.seconds
    assert sum((spent.fetch, spent.fill, spent.train, spent.score, spent.code)) <= 10.0
    only_broken = work_of([broken, idle], 16)
    assert only_broken is not None
    assert not only_broken.HasField("seconds")


def test_energy_is_the_mean_over_those_who_measured_it() -> None:
    times = {"forward_seconds": 1.0, "backward_seconds": 1.0}
    told = [report("a", energy_joules=30.0, **times), report("b", energy_joules=50.0, **times), report("c", **times)]
    work = work_of([*told, report("d", energy_joules=float("inf"), **times), report("e")], 16)
    assert work is not None
    assert work.energy_joules == pytest.approx(40.0)
    nobody = work_of(told[2:], 16)
    assert nobody is not None
    assert nobody.energy_joules == 0.0


def test_a_round_without_reports_has_no_work() -> None:
    assert work_of([], 16) is None
