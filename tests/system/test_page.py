"""The aggregator's page in a real browser that can reach nothing else. Part of `make test-system`.

Needs Chromium (Debian: `apt-get install chromium`) and Playwright (extra `browser`); the check of accessibility needs
axe-core from npm, or its file in FEDHFT_AXE. Each is skipped without. Screenshots go to
FEDHFT_SCREENSHOTS if that is set.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fedhft_aggregator.page.access import PageSettings
from fedhft_aggregator.page.server import page as serve_page

from fedhft.job import parse_job
from fedhft.jobs.client import JobsClient
from fedhft.local.processes import ServiceProcess, stop_all
from fedhft.local.redis import EmbeddedRedis
from fedhft.store.open import open_store
from tests.system import browsers
from tests.watched_jobs import WatchedJob, names, shown_jobs, watched_spec

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is in the extra `browser`")
pytestmark = pytest.mark.timeout(600)

AXE = "axe-core@4.14.1"
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}
SOON_MS = 30_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core."""
    given = os.environ.get("FEDHFT_AXE")
    if given:
        return Path(given).read_text(encoding="utf-8")
    if shutil.which("npm") is None:
        pytest.skip("axe-core comes from npm, which is not here")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(["npm", "pack", AXE], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    packed = list(folder.glob("*.tgz"))
    if not packed:
        pytest.skip(f"axe-core cannot be fetched: {done.stderr[-200:]}")
    with tarfile.open(packed[0]) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


@dataclass
class Opened:
    """A page in a browser, and everything it did that it should not have."""

    page: Any
    address: str
    complaints: list[str] = field(default_factory=list)

    def go(self, job: str = "") -> Any:
        self.page.goto(f"http://{self.address}/" + (f"#job={job}" if job else ""))
        return self.page

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Opened]]:
    """Opens pages; at the end none may have asked another machine, or broken its own policy."""
    contexts, pages = [], []

    def open_(address: str, scheme: str = "light", size: str = "desktop") -> Opened:
        width, height = SIZES[size]
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme,
            device_scale_factor=2 if size == "phone" else 1,
        )  # fmt: skip
        contexts.append(context)
        one = Opened(context.new_page(), address)
        pages.append(one)

        def asked(request: Any) -> None:
            if not request.url.startswith(f"http://{address}/"):
                one.complaints.append(f"asked {request.url}")

        one.page.on("request", asked)
        one.page.on("console", lambda message: one.complaints.append(message.text) if message.type == "error" else None)
        one.page.on("pageerror", lambda error: one.complaints.append(str(error)))
        one.page.on("dialog", lambda dialog: one.complaints.append(f"dialog {dialog.message}"))
        return one

    yield open_
    for context in contexts:
        context.close()
    assert [complaint for one in pages for complaint in one.complaints] == []


def elsewhere(work: Callable[[], Any]) -> Any:
    """Run it on a thread of its own: Playwright has an event loop on this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(300)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page with jobs in all conditions, one of them of many rounds and clients."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as redis:

        async def fill() -> None:
            store = open_store(redis.url, "redis")
            try:
                crowd = WatchedJob(store, watched_spec("crowd", 400), names(300, "device"))
                await crowd.start()
                await crowd.run(320)
                await shown_jobs(store)
            finally:
                await store.close()

        elsewhere(lambda: asyncio.run(fill()))
        with serve_page(PageSettings("127.0.0.1:0"), lambda: open_store(redis.url, "redis")) as address:
            assert address is not None
            yield address


def says(page: Any, selector: str, text: str | re.Pattern[str], timeout_ms: int = SOON_MS) -> None:
    """Wait until an element has this text. (A function that the browser repeats would break the page's policy.)"""
    playwright.expect(page.locator(selector)).to_have_text(text, timeout=timeout_ms)


def points_of(page: Any, chart: str) -> list[int]:
    """How many points each line of a chart has."""
    program = (
        "id => { const drawn = Chart.getChart(document.querySelector(`[data-chart=${id}] canvas`));"
        " return drawn ? drawn.data.datasets.map((line) => line.data.length) : []; }"
    )
    return list(page.evaluate(program, chart))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_whole_legible_and_accessible(
    opened: Callable[..., Opened], shown: str, axe: str, tmp_path: Path, scheme: str, size: str
) -> None:
    one = opened(shown, scheme, size)
    page = one.go("tickets")
    page.wait_for_selector("#clients tbody tr:nth-child(14)")
    page.wait_for_selector("#rounds tbody tr:nth-child(12)")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(245, 246, 248)"
    assert light == (scheme == "light")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out sideways"
    assert "5 of 12 updates are here" in one.text("#live-text")
    assert one.text("#figures").split()[:5] == ["Rounds", "published", "12", "/", "20"]
    assert points_of(page, "accuracy") == [12] * 5
    assert points_of(page, "memory") == [12] * 4
    assert points_of(page, "time") == [12] * 6
    assert points_of(page, "depth") == [12] * 3
    for text in ("rounds.total = 20: the owner allows 10", "<script>alert('no')</script>"):
        assert text in one.text("#clients")
    assert "its blob is damaged <b>&amp;</b>" in one.text("#bounded")
    folder = Path(os.environ.get("FEDHFT_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"page-{size}-{scheme}.png", full_page=True)
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    grave = [
        (one["id"], one["impact"], [node["target"] for node in one["nodes"]][:3])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert grave == []


def test_jobs_in_trouble_say_why(opened: Callable[..., Opened], shown: str, axe: str) -> None:
    one = opened(shown)
    for job, words in (
        ("triage", "Blocked. the store is out of memory (STORE_FULL)"),
        ("discharge-letters", "Paused. until Monday"),
        ("notes-2026-10", "Failed. round 3: 1 of 3 updates at the deadline, 2 needed"),
    ):
        page = one.go(job)
        says(page, "#job-name", job)
        assert one.text("#notices") == words
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


def test_many_rounds_are_thinned_out_and_many_clients_are_paged(opened: Callable[..., Opened], shown: str) -> None:
    one = opened(shown)
    page = one.go("crowd")
    page.wait_for_selector("#clients tbody tr:nth-child(100)")
    (points, *_) = points_of(page, "accuracy")
    assert 120 <= points <= 240
    assert "of 320 rounds are drawn" in one.text("#charts-note")
    assert page.locator("#clients tbody tr").count() == 100
    page.click("#clients-next")
    says(page, "#clients tbody tr:first-child th", "device-0101")
    page.click("#rounds-older")
    says(page, "#rounds tbody tr:first-child th", "270")
    page.click("#rounds-first")
    says(page, "#rounds tbody tr:first-child th", "320")


def test_everything_is_reached_by_keyboard(opened: Callable[..., Opened], shown: str) -> None:
    page = opened(shown).go("crowd")
    page.wait_for_selector("#rounds tbody tr:nth-child(50)")
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(
            "(document.activeElement.id || document.activeElement.getAttribute('aria-labelledby')"
            " || document.activeElement.getAttribute('href') || '')"
        ))  # fmt: skip
    assert reached[0] == "#main"
    for wanted in ("#job=tickets", "#job=triage", "clients-next", "clients-title", "rounds-older", "rounds-title"):
        assert wanted in reached, reached
    page.focus("a[href='#job=triage']")
    page.keyboard.press("Enter")
    says(page, "#job-name", "triage")
    assert page.get_attribute("a[href='#job=triage']", "aria-current") == "page"


def test_a_running_job_changes_the_page_without_a_reload(opened: Callable[..., Opened], tmp_path: Path) -> None:
    from tests.models import rows, tiny_model

    model = tiny_model(tmp_path / "model")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(60)))
    spec = parse_job(
        {
            "name": "live", "model": {"name": str(model)}, "task": {"labels": ["bad", "good"]},
            "method": {"preset": "fedhft", "clusters": 1}, "rounds": {"total": 4, "min_clients": 2},
            "training": {"epochs": 60},  # rounds of seconds: a person, too, sees no more than two changes in one
        }
    )  # fmt: skip
    environment = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    processes: list[ServiceProcess] = []

    def start(name: str, module: str, *arguments: str) -> ServiceProcess:
        processes.append(ServiceProcess(name, module, arguments, tmp_path / f"{name}.log", environment))
        return processes[-1]

    with EmbeddedRedis(tmp_path / "redis") as redis:
        try:
            free = "127.0.0.1:0"
            aggregator = start(
                "aggregator", "fedhft_aggregator", "--redis", redis.url, "--listen", free, "--admin-listen", free,
                "--metrics-port", "0", "--page", free,
            )  # fmt: skip
            addresses = aggregator.wait_listening(60)
            one = opened(addresses["page"])
            page = one.go()
            says(page, "#nothing-text", re.compile("^There are none yet"))
            page.evaluate(
                "window.seen = []; new MutationObserver(() => {"
                " const now = document.querySelector('#figures dd')?.textContent + ', ' +"
                " document.querySelector('#live-text').textContent.slice(0, 7);"
                " if (window.seen.at(-1) !== now) window.seen.push(now);"
                "}).observe(document.body, {subtree: true, childList: true, characterData: true})"
            )
            with JobsClient(addresses["admin"]) as client:
                client.submit(spec)
            page.wait_for_selector("#jobs a[href='#job=live']", timeout=SOON_MS)
            for number in (1, 2):
                start(
                    f"edge-{number}", "fedhft_agent", "--server", addresses["grpc"], "--client", f"edge-{number}",
                    "--data", str(tmp_path / "train.jsonl"), "--state-dir", str(tmp_path / f"state-{number}"), "--once",
                    "--threads", "1",
                )  # fmt: skip
            says(page, "#job-status", "completed", 240_000)
            says(page, "#figures div:first-child dd:first-of-type", "4 / 4")
            page.wait_for_selector("#rounds tbody tr:nth-child(4)", timeout=SOON_MS)
            seen = page.evaluate("window.seen")  # gone if the page had been loaded again
            published = {text.split(",")[0] for text in seen}
            assert {"0 / 4", "4 / 4"} <= published
            assert len(published) >= 3, seen
            assert points_of(page, "accuracy")[0] == 5, "four rounds and the final evaluation"
            assert points_of(page, "loss") == [5, 5]
            assert "edge-2" in one.text("#clients")
            assert "×" in one.text("#figures")
        finally:
            stop_all(processes[1:], 5.0, 10.0)
            stop_all(processes[:1], 0.0, 10.0)
