"""What the page is told: bounded, complete, and in the words of the Jobs service."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from fedhft_aggregator.page import views
from fedhft_aggregator.page.access import Gate, PageSettings
from fedhft_aggregator.page.assets import read_assets
from fedhft_aggregator.page.board import Board
from fedhft_aggregator.page.kept import SHARE, Kept
from fedhft_aggregator.page.readings import (
    MOST_JOBS,
    RECENT_ROUNDS,
    SPREAD_ROUNDS,
    TABLE_CLIENTS,
    TABLE_ROUNDS,
    Readings,
)
from fedhft_aggregator.page.server import MOST_WATCHERS
from fedhft_aggregator.service import _page_settings
from fedhft_aggregator.settings import AggregatorSettings
from hypothesis import given
from hypothesis import strategies as st

from fedhft.coordination.deny_list import DenyList
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.process.http_server import IDLE_SECONDS, MAX_CONNECTIONS
from fedhft.records import JobStatus
from fedhft.rounds.paging import thinned
from fedhft.rpc.tls import TlsSettings
from fedhft.store.in_memory import InMemoryStore
from fedhft.v1 import jobs_pb2
from tests.contract.federation import ALIVE
from tests.watched_jobs import WatchedJob, names, shown_jobs, summary_of, watched_spec


@pytest.fixture
async def store() -> InMemoryStore:
    return InMemoryStore()


async def test_a_job_is_told_with_its_open_round_figures_floors_and_clusters(store: InMemoryStore) -> None:
    running = await shown_jobs(store)
    told = await Readings(store).job(running.job)
    assert (told["job"], told["status"], told["rounds_done"], told["rounds_total"]) == ("tickets", "running", 12, 20)
    assert (told["clients"], told["live"], told["declined"], told["submitted_by"]) == (12, 12, 2, "ops")
    assert {name: told["open"][name] for name in ("round", "phase", "asked", "accepted", "target", "quorum")} == {
        "round": 13, "phase": "collecting", "asked": 12, "accepted": 5, "target": 12, "quorum": 6,
    }  # fmt: skip
    assert 590 < told["open"]["seconds_left"] <= 600
    assert [one["round"] for one in told["rounds"]] == list(range(1, 13))
    last = told["rounds"][-1]
    assert last["tiers"][1]["tier"] == "small"
    assert last["personal_loss_before_median"] == pytest.approx(summary_of(12, 12).personal_loss_before_median)
    assert told["floors"]["majority"] == 0.531
    alone = summary_of(8, 8)
    assert told["floors"]["local"] == {
        "job": "tickets-alone", "mean": alone.personal_before_mean, "worst_tenth": alone.personal_before_worst_tenth,
    }  # fmt: skip
    assert told["clusters"]["sizes"] == [6, 6]
    assert told["clusters"]["reason"].startswith("2 clusters")
    assert told["clusters"]["mean_max_membership"] == pytest.approx((0.75 + 0.875) / 2)


async def test_why_jobs_are_paused_blocked_or_failed_is_told(store: InMemoryStore) -> None:
    await shown_jobs(store)
    told = await Readings(store).jobs()
    listed = {one["job"]: one for one in told["jobs"]}
    assert told["total"] == 5
    assert listed["triage"]["blocked"] == "the store is out of memory (STORE_FULL)"
    assert listed["discharge-letters"]["paused"] == "until Monday"
    assert listed["notes-2026-10"]["reason"].startswith("round 3: 1 of 3 updates")
    assert [one["status"] for one in told["jobs"]][-2:] == ["failed", "completed"]  # those that are over come last
    assert all("rounds" not in one for one in told["jobs"])


async def test_clients_are_told_with_state_plan_and_memberships_page_by_page(store: InMemoryStore) -> None:
    running = await shown_jobs(store)
    told = await Readings(store).clients(running.job, "")
    by_name = {one["client"]: one for one in told["clients"]}
    first, declined = by_name["clinic-0001"], by_name["north-wing"]
    assert (first["state"], first["tier"], first["samples"]) == ("live", "large", 120)
    assert (first["plan"]["depth"], first["plan"]["density"]) == (4, 1.0)
    assert first["memberships"] == [0.75, 0.25]
    assert (declined["state"], declined["plan"], declined["reason"]) == (
        "declined", None, "<script>alert('no')</script>",
    )  # fmt: skip
    crowd = WatchedJob(store, watched_spec("crowd"), names(250))
    await crowd.start()
    page = await Readings(store).clients(crowd.job, "")
    assert (len(page["clients"]), page["more"]) == (100, True)
    rest = await Readings(store).clients(crowd.job, "clinic-0200")
    assert (len(rest["clients"]), rest["more"]) == (50, False)


async def test_updates_that_were_bounded_are_named_with_the_round_and_the_reason(store: InMemoryStore) -> None:
    running = await shown_jobs(store)
    told = (await Readings(store).rounds(running.job, 0))["bounded"]
    assert told["unnamed"] == 0
    assert [(one["round"], one["client"], one["what"]) for one in told["updates"]] == [
        (7, "clinic-0004", "set_aside"), (7, "clinic-0009", "opposed"), (7, "clinic-0007", "clipped"),
    ]  # fmt: skip
    assert told["updates"][0]["reason"] == "its blob is damaged <b>&amp;</b>"
    assert told["updates"][2]["factor"] == 0.31


def test_more_bounded_updates_than_are_named_are_counted() -> None:
    many = [
        jobs_pb2.RoundSummary(
            round=number, clipped_count=30, clipped=[jobs_pb2.Scaled(client=f"c{i}", factor=0.5) for i in range(20)]
        )
        for number in range(1, 21)
    ]
    told = views.bounded_view(many)
    assert (len(told["updates"]), told["unnamed"]) == (views.MOST_BOUNDED, 20 * 30 - views.MOST_BOUNDED)
    assert told["updates"][0]["round"] == 20


async def test_a_long_job_of_many_clients_is_told_in_little_room(store: InMemoryStore) -> None:
    job = WatchedJob(store, watched_spec("long", 2000), names(1000))
    await job.start()
    for number in range(1, 1101):
        job.number = number - 1
        await job.open()
        await job.publish()
    readings = Readings(store)
    told = await readings.job(job.job)
    rounds = [one["round"] for one in told["rounds"]]
    assert len(rounds) <= RECENT_ROUNDS + SPREAD_ROUNDS
    assert rounds[-RECENT_ROUNDS:] == list(range(1100 - RECENT_ROUNDS + 1, 1101))
    assert rounds[0] <= 16
    assert len(views.encoded(told)) < 512 << 10
    assert len(views.encoded(await readings.news(job.job))) < 8 << 10
    table = await readings.rounds(job.job, 500)
    assert [one["round"] for one in table["rounds"]] == list(range(450, 500))
    assert len(views.encoded(await readings.clients(job.job, ""))) < 128 << 10


@given(st.integers(0, 30_000), st.integers(1, 30_000), st.integers(1, 200), st.integers(1, 200))
def test_thinned_rounds_are_few_ascending_and_end_with_the_last(
    published: int, kept_from: int, recent: int, spread: int
) -> None:
    found = thinned(published, kept_from, recent=recent, spread=spread)
    assert found == sorted(set(found))
    assert len(found) <= recent + spread
    if published >= kept_from:
        assert found[-1] == published
        assert found[0] >= kept_from
    else:
        assert found == []
    if published - kept_from + 1 <= recent:
        assert found == list(range(kept_from, published + 1))


async def test_a_damaged_job_is_listed_beside_the_others(store: InMemoryStore) -> None:
    await store.create_job(JobId("damaged"), "[" * 100_000)
    whole = WatchedJob(store, watched_spec("whole"), names(2))
    await whole.start()
    listed = {one["job"]: one for one in (await Readings(store).jobs())["jobs"]}
    assert (listed["damaged"]["rounds_total"], listed["whole"]["rounds_total"]) == (0, 10)
    assert (await Readings(store).job(JobId("damaged")))["job"] == "damaged"


async def test_of_very_many_jobs_the_unfinished_and_the_newest_are_listed() -> None:
    now = [1000.0]
    store = InMemoryStore(clock=lambda: now[0])
    for number in range(MOST_JOBS + 5):
        now[0] += 1
        await store.create_job(JobId(f"job-{number}"), watched_spec(f"job-{number}").canonical())
        if number:
            await store.set_status(JobId(f"job-{number}"), JobStatus.COMPLETED, "", ALIVE)
    told = await Readings(store).jobs()
    assert (len(told["jobs"]), told["total"]) == (MOST_JOBS, MOST_JOBS + 5)
    assert [one["job"] for one in told["jobs"][:2]] == ["job-0", f"job-{MOST_JOBS + 4}"]


async def test_a_reading_serves_all_who_ask_meanwhile_and_is_kept_for_twenty_times_as_long_as_it_took() -> None:
    now, count = [0.0], 0

    async def read() -> int:
        nonlocal count
        count += 1
        now[0] += 2.0
        await asyncio.sleep(0)
        return count

    kept = Kept(clock=lambda: now[0], processor=lambda: now[0])
    assert await asyncio.gather(*(kept.get(("a",), read) for _ in range(9))) == [1] * 9
    now[0] += 2.0 * SHARE - 0.1
    assert await kept.get(("a",), read) == 1
    now[0] += 0.2
    assert await kept.get(("a",), read) == 2
    assert await kept.get(("b",), read) == 3


async def test_readings_that_are_kept_are_bounded() -> None:
    kept = Kept(clock=lambda: 0.0)
    for number in range(1000):
        await kept.get((number,), lambda: asyncio.sleep(0, "x"))
    assert len(kept._readings) == 128
    assert kept._locks == {}


def test_a_reader_that_was_away_is_told_the_last_thing_only() -> None:
    board = Board()
    for number in range(100):
        board.write("job/a", b"%d" % number)
    ((number, text),) = board.read(["jobs", "job/a"], {}, 0.0).values()
    assert text == b"99"
    assert board.read(["job/a"], {"job/a": number}, 0.0) == {}
    board.write("job/a", b"99")  # says nothing new
    assert board.read(["job/a"], {"job/a": number}, 0.0) == {}


# -- where it may be served, and to whom


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "[::]:8080", "10.1.2.3:0", "dashboard.example:443"])
@pytest.mark.parametrize("tls", [None, TlsSettings(Path("tls.crt"), Path("tls.key"))])
def test_beyond_this_machine_it_is_not_served_without_client_certificates(listen: str, tls: TlsSettings | None) -> None:
    with pytest.raises(FedhftError) as caught:
        PageSettings(listen, tls)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert caught.value.message.startswith(f"--page = {listen!r}: other machines can reach it")
    assert "--tls-authority" in caught.value.message


def test_it_is_off_unless_it_is_asked_for_and_refuses_a_store_that_it_cannot_read() -> None:
    deny_list = DenyList(InMemoryStore())
    assert _page_settings(AggregatorSettings(), deny_list) is None
    with pytest.raises(FedhftError, match="it cannot read the store memory://"):
        _page_settings(AggregatorSettings(page="127.0.0.1:0", redis="memory://", blobs="memory"), deny_list)
    with pytest.raises(FedhftError, match="--page = 'here': is not an address"):
        AggregatorSettings(page="here")


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "localhost", "[::1]"])
def test_a_loopback_name_is_let_in(host: str) -> None:
    Gate(PageSettings("127.0.0.1:0")).admit(object(), host)


@pytest.mark.parametrize("host", ["evil.example:8080", "evil.example", "", "127.0.0.1.evil.example", "10.0.0.1:80"])
def test_a_web_site_that_points_its_own_name_at_loopback_is_refused(host: str) -> None:
    with pytest.raises(FedhftError) as caught:
        Gate(PageSettings("127.0.0.1:0")).admit(object(), host)
    assert caught.value.code is ErrorCode.NOT_AUTHORISED


# -- what it is made of


def test_the_page_names_no_other_machine_and_has_nothing_inline() -> None:
    assets = read_assets()
    assert {"/", "/static/page.js", "/static/page.css", "/static/vendor/chartjs/LICENSE.md"} <= assets.keys()
    for name, asset in assets.items():
        if "/vendor/" not in name:
            text = asset.data.decode()
            assert re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text.replace("http://www.w3.org", "")) == [], (
                name
            )
            assert "innerHTML" not in text
    html = assets["/"].data.decode()
    assert re.findall(r"<script(?![^>]* src=)", html) == []
    assert "<style" not in html
    assert re.findall(r"\s(?:style|on[a-z]+)=", html) == []
    linked = re.findall(r'(?:src|href)="(/[^"]*)"', html)
    assert set(linked) <= assets.keys()


def test_every_module_that_the_page_imports_is_shipped() -> None:
    assets = read_assets()
    for name, asset in assets.items():
        if name.endswith(".js") and "/vendor/" not in name:
            for target in re.findall(r'from "\./([^"]+)"', asset.data.decode()):
                assert f"/static/{target}" in assets


def test_the_chart_library_has_its_licence_and_the_version_that_is_named() -> None:
    folder = Path(views.__file__).parent / "static" / "vendor"
    version = re.search(r"\| chartjs \|.*?\| (\d+\.\d+\.\d+) \|", (folder / "README.md").read_text())
    assert version is not None
    script = (folder / "chartjs/chart.umd.min.js").read_text()
    assert f"Chart.js v{version[1]}" in script
    assert "MIT" in (folder / "chartjs/LICENSE.md").read_text()
    assert "sourceMappingURL" not in script


def test_no_script_or_style_is_longer_than_a_reader_can_hold() -> None:
    for name, asset in read_assets().items():
        if "/vendor/" not in name:
            assert len(asset.data.splitlines()) <= 420, name


def test_everything_told_is_json_without_numbers_that_json_lacks() -> None:
    summary = jobs_pb2.RoundSummary(round=1, seconds=float("nan"), shared_before=0.0)
    view = json.loads(views.encoded(views.round_view(summary)))
    assert view["shared_before"] == 0.0
    assert "seconds" not in view
    assert "shared_after" not in view


@pytest.mark.parametrize(
    "sentence",
    [
        f"then the newest others, {MOST_JOBS} at most",
        f"became of its last update; {TABLE_CLIENTS} at a time",
        f"figures of {TABLE_ROUNDS} rounds at a time",
        f"draw the last {RECENT_ROUNDS} rounds, and at most {SPREAD_ROUNDS} of those before",
        f"{MOST_WATCHERS} browsers are told",
        f"answered on {MAX_CONNECTIONS} connections at once",
        f"silent for {IDLE_SECONDS:g} s",
        "takes a twentieth of a core" if SHARE == 20 else "another share",
    ],
)
def test_numbers_in_its_document_are_the_code_s(sentence: str) -> None:
    document = Path(__file__).parents[2] / "docs/page.md"
    assert sentence in " ".join(document.read_text(encoding="utf-8").split())


def test_the_best_version_is_told_once_and_not_with_every_round() -> None:
    best = jobs_pb2.BestVersion(version=4, score=0.75, by="accuracy (personal)", round=5, waited=2)
    told = views.heading(jobs_pb2.Job(job="tickets", best=best), {})["best"]
    assert told == {"version": 4, "score": 0.75, "by": "accuracy (personal)", "round": 5, "waited": 2}
    assert views.heading(jobs_pb2.Job(job="tickets"), {})["best"] is None
    assert "best" not in views.round_view(jobs_pb2.RoundSummary(round=7, best=best))
