"""What a page says about a job: one replica alone, all of it, and for how long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedhft.coordination.gauges import show_plans, show_published
from fedhft.coordination.history import RoundHistory
from fedhft.records import JobStatus
from fedhft.store.condition import aof_state, parse_info
from fedhft.telemetry import federations, metrics
from fedhft.telemetry.registry import REGISTRY, render
from fedhft.v1 import jobs_pb2
from tests.unit.story import JOB, LEASE_MS, Story, rules
from tests.unit.wire_examples import schema_of


@pytest.fixture(autouse=True)
def _nothing_shown_before() -> None:
    federations.drop(JOB)


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"federation": JOB, **labels})


def lines(name: str) -> list[str]:
    return [line for line in render().decode().splitlines() if line.startswith(f"{name}{{") and f'"{JOB}"' in line]


async def test_a_round_shows_its_number_times_and_clients() -> None:
    story = await Story.begin(rounds=rules())
    one = story.coordinator()
    await story.settle(one)
    assert value("fedhft_federation_state", state="waiting") == 1
    assert value("fedhft_federation_round") == 0
    await story.join("a", "b", "c")
    await story.settle(one)
    await story.deliver("a")
    await story.go_on(one, 5.0, "a", "b")
    assert value("fedhft_federation_state", state="running") == 1
    assert value("fedhft_federation_state", state="waiting") == 0
    assert value("fedhft_federation_round") == 1
    assert value("fedhft_federation_rounds_planned") == 2
    assert value("fedhft_federation_round_asked") == 3
    assert value("fedhft_federation_round_delivered") == 1
    opened = (await story.round()).opened_ms / 1000
    assert value("fedhft_federation_round_opened_seconds") == opened
    assert value("fedhft_federation_round_deadline_seconds") == opened + 60
    assert value("fedhft_federation_plan_depth", tier="standard") == 2
    assert value("fedhft_federation_plan_ranks", tier="standard") == 8
    assert value("fedhft_federation_plan_density", tier="standard") == 1.0
    await story.go_on(one, 45.0, "a", "b")  # the third is not heard of
    assert value("fedhft_federation_clients", state="live") == 2
    assert value("fedhft_federation_clients", state="silent") == 1
    assert value("fedhft_federation_clients", state="declined") == 0


async def test_what_a_job_counts_is_shown_at_zero_before_it_first_happens() -> None:
    story = await Story.begin(rounds=rules())
    await story.settle(story.coordinator())
    assert value("fedhft_rounds_total", outcome="failed") == 0
    assert value("fedhft_updates_refused_total", code="non_finite") == 0
    assert value("fedhft_payload_bytes_total", direction="down", payload="delta", tier="standard") == 0


async def test_only_the_holder_of_the_lease_shows_a_job() -> None:
    story = await Story.begin(rounds=rules())
    one, two = story.coordinator("one"), story.coordinator("two")
    await story.join("a", "b")
    await story.settle(one)
    assert value("fedhft_federation_lease_held") == 1
    story.wait(LEASE_MS / 1000 + 1)
    await story.settle(two)
    await story.settle(one)  # and learns that it has lost the lease
    assert value("fedhft_federation_lease_held") == 0
    assert lines("fedhft_federation_round") == lines("fedhft_federation_state") == []


async def test_a_new_holder_shows_what_the_one_before_had_published() -> None:
    story = await Story.begin(rounds=rules())
    await story.join("a", "b")
    one = story.coordinator("one")
    await story.play_round(one, moved={"peak_rss_bytes": 7_000})
    await story.settle(one)
    federations.drop(JOB)  # the page of another process
    story.wait(LEASE_MS / 1000 + 1)
    await story.be_heard("a", "b")
    await story.settle(story.coordinator("two"))
    assert value("fedhft_federation_cluster_participants", cluster="0") == 2
    assert value("fedhft_federation_plan_depth", tier="standard") == 2
    assert value("fedhft_federation_peak_memory_bytes", tier="standard") == 7_000


async def test_an_ended_job_keeps_its_last_figures_and_has_no_lease_and_no_deadline() -> None:
    story = await Story.begin(rounds=rules(total=1))
    one = story.coordinator()
    await story.join("a", "b")
    await story.play_round(one)
    assert await story.status() is JobStatus.COMPLETED
    assert value("fedhft_federation_state", state="completed") == 1
    assert value("fedhft_rounds_total", outcome="published") == 1
    assert lines("fedhft_federation_lease_held") == lines("fedhft_federation_round_deadline_seconds") == []
    two = story.coordinator("two")
    federations.drop(JOB)
    await story.settle(two)
    assert lines("fedhft_federation_state") == lines("fedhft_federation_lease_held") == []


def test_a_published_round_shows_where_time_went_and_one_without_measurements_shows_none() -> None:
    spent = jobs_pb2.TimeSpent(fetch=1.0, train=5.0, wait=2.5)
    work = jobs_pb2.RoundWork(depth_mean=2.0, waiting=0.25, seconds=spent)
    show_published(JOB, RoundHistory(jobs_pb2.RoundSummary(round=1, work=work)), ())
    assert value("fedhft_federation_round_waiting_ratio") == 0.25
    seconds = {
        name: value("fedhft_federation_round_client_seconds", activity=name) for name in ("train", "wait", "fill")
    }
    assert seconds == {"train": 5.0, "wait": 2.5, "fill": 0.0}
    show_published(JOB, RoundHistory(jobs_pb2.RoundSummary(round=2)), ())
    assert lines("fedhft_federation_round_client_seconds") == lines("fedhft_federation_round_waiting_ratio") == []


async def test_plans_are_shown_as_the_mean_of_a_tier() -> None:
    story = await Story.begin(rounds=rules())
    one = story.coordinator()
    await story.join("a", "b", "c")
    await story.settle(one)
    current = await story.round()
    schema = schema_of(layers=4, width=8, rank=2)
    depths = dict(zip(sorted(current.participants), (1, 1, 4), strict=True))
    varied = {
        name: part.model_copy(update={"plan": replace(part.plan, depth=depths[name])})
        for name, part in current.participants.items()
    }
    show_plans(JOB, schema, current.model_copy(update={"participants": varied}))
    assert value("fedhft_federation_plan_depth", tier="standard") == 2.0
    ranks = {depth: 2 * len([slot for slot in schema.slots if slot.layer >= 4 - depth]) for depth in (1, 4)}
    assert value("fedhft_federation_plan_ranks", tier="standard") == (2 * ranks[1] + ranks[4]) / 3


async def test_a_pause_shows() -> None:
    story = await Story.begin(rounds=rules())
    one = story.coordinator()
    await story.store.pause_job(JOB, "an incident")
    await story.settle(one)
    assert value("fedhft_federation_paused") == 1
    await story.store.resume_job(JOB)
    await story.store.set_blocked(JOB, "the volume is full")
    await one.step()
    assert value("fedhft_federation_paused") == 0
    assert value("fedhft_federation_blocked") == 1


def test_series_of_jobs_that_are_over_go_after_a_while() -> None:
    now = [0.0]
    ended = federations.EndedFederations(lambda: now[0], kept_s=10.0, most=2)
    federations.begin("ends", ["small"])
    federations.begin("lives", ["small"])
    for then, left in ((0.0, {"ends", "lives"}), (9.0, {"ends", "lives"}), (10.0, {"lives"})):
        now[0] = then
        ended.sweep(["lives", *(federations.shown() - {"ends", "lives"})])
        assert federations.shown() & {"ends", "lives"} == left
    federations.drop("lives")


def test_a_job_that_begins_again_meanwhile_stays() -> None:
    now = [0.0]
    ended = federations.EndedFederations(lambda: now[0], kept_s=10.0)
    federations.begin("again", ["small"])
    others = federations.shown() - {"again"}
    for then, alive in ((0.0, others), (9.0, {*others, "again"}), (12.0, others), (21.0, others)):
        now[0] = then
        ended.sweep(alive)
        assert "again" in federations.shown()
    now[0] = 22.0
    ended.sweep(others)
    assert "again" not in federations.shown()


def test_of_many_jobs_that_are_over_the_longest_gone_go_at_once() -> None:
    now = [0.0]
    ended = federations.EndedFederations(lambda: now[0], kept_s=1e9, most=2)
    others = federations.shown()
    for job in ("first", "second", "third"):
        now[0] += 1
        federations.begin(job, [])
        ended.sweep(others)
    assert federations.shown() - others == {"second", "third"}
    for job in ("second", "third"):
        federations.drop(job)


def test_every_gauge_of_a_holder_is_dropped_by_those_that_are_not() -> None:
    by_name = {family._name for family in federations.HOLDERS}
    declared = {
        metric._name for name, metric in vars(metrics).items()
        if name.isupper() and getattr(metric, "_name", "").startswith("fedhft_federation_")
    }  # fmt: skip
    assert by_name == declared - {"fedhft_federation_lease_held"}


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (b"aof_enabled:0\r\n", "off"),
        (b"# Persistence\r\naof_enabled:1\r\naof_last_bgrewrite_status:ok\r\naof_last_write_status:ok\r\n", "ok"),
        (b"aof_enabled:1\r\naof_last_write_status:err\r\n", "failing"),
        (b"aof_enabled:1\r\naof_last_bgrewrite_status:err\r\n", "failing"),
    ],
)
def test_the_state_of_the_append_only_file_is_what_redis_says(answer: bytes, state: str) -> None:
    assert aof_state(parse_info(answer)) == state


def test_every_metric_of_the_task_is_shown_with_what_a_constant_answer_would_score() -> None:
    figures = jobs_pb2.MetricFigures(name="macro_f1", personal_before=0.5, shared_after=0.7, floor=0.2)
    show_published(JOB, RoundHistory(jobs_pb2.RoundSummary(metrics=[figures]), (), False), ())
    name = "fedhft_federation_task_metric"
    assert value(name, metric="macro_f1", split="personal", moment="before") == 0.5
    assert value(name, metric="macro_f1", split="personal", moment="constant") == 0.2
    assert value(name, metric="macro_f1", split="shared", moment="after") == 0.7
    assert len(lines(name)) == 3
    show_published(JOB, RoundHistory(jobs_pb2.RoundSummary(), (), False), ())
    assert lines(name) == []
