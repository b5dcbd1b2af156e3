"""A real Prometheus scrapes a real federation: every panel, rule and alert runs, and what should have data has some.

Needs Debian's package `prometheus` (prometheus and promtool); skipped without it.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedhft.datasets.federated import ClientFiles
from fedhft.job import JobSpec, parse_job
from fedhft.local.federation import Federation, FederationLayout
from fedhft.local.processes import stop_all
from fedhft.records import JobStatus
from tests.agents import free_address
from tests.deploy.test_monitoring import concrete, queries, rules
from tests.models import rows, tiny_model
from tests.unit.test_house import ROOT

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("promtool")),
        reason="Prometheus is not installed (Debian: apt-get install prometheus)",
    ),
]
FOLDER = ROOT / "deploy/prometheus"
CLIENTS = ("ash", "birch", "cedar")
JOB = "scraped"
KINDS = {"aggregator": "aggregator", "clusterer": "clusterer", **dict.fromkeys(CLIENTS, "agent")}


@dataclass(frozen=True)
class Scraped:
    """What is left when the job is over: Prometheus still answers, the services still serve."""

    prometheus: str
    config: Path
    started: float
    ended: float
    pages: dict[str, str]
    """Process -> its page as Prometheus got it, near the end of the job for agents."""

    def ask(self, path: str, **parameters: object) -> Any:
        """The data of an answer of Prometheus. Fails the test when it is refused."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"http://{self.prometheus}/api/v1/{path}?{query}", timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def now(self, expr: str) -> list[Any]:
        """The samples of an expression now."""
        return list(self.ask("query", query=expr)["result"])

    def values(self, expr: str) -> list[float]:
        """All numbers that an expression had while the job ran and shortly after."""
        asked = {"query": expr, "start": self.started, "end": self.ended + 15, "step": 1}
        found = self.ask("query_range", **asked)["result"]
        return [number for series in found for _, text in series["values"] if math.isfinite(number := float(text))]

    def number(self, expr: str) -> float:
        """The only number of an expression now."""
        (sample,) = self.now(expr)
        return float(sample["value"][1])


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    folder = tmp_path_factory.mktemp("scraped")
    model = tiny_model(folder / "model")
    federation = Federation(FederationLayout(folder / "run", model, tls=True, agent_pages=True))
    address = free_address()
    prometheus: subprocess.Popen[bytes] | None = None
    pages: dict[str, str] = {}
    try:
        federation.start()
        federation.jobs.submit(_job(model))
        federation.start_agents(JOB, [_files(folder, client, place) for place, client in enumerate(CLIENTS)])
        config = _configured(folder, federation.pages)
        with (folder / "prometheus.log").open("wb") as log:
            prometheus = subprocess.Popen(
                ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
                 f"--web.listen-address={address}"],
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        started = time.time()

        def changed(job: Any) -> None:
            if not pages and job.rounds_done >= 2 and job.status == JobStatus.RUNNING:  # agents leave with the job
                pages.update({name: _page(at) for name, at in federation.pages.items()})

        job = federation.follow(JOB, 600, changed)
        assert job.status == JobStatus.COMPLETED
        ended = time.time()
        _wait_scraped(address, time.time())
        for name in ("aggregator", "clusterer"):
            pages[name] = _page(federation.pages[name])
        print(f"\nthe job took {ended - started:.0f} s; pages: {', '.join(sorted(pages))}")
        yield Scraped(address, config, started, ended, pages)
    finally:
        if prometheus is not None:
            prometheus.terminate()
            try:
                prometheus.wait(20)
            except subprocess.TimeoutExpired:
                prometheus.kill()
                prometheus.wait()
        stop_all(federation._agents, 0.0, 1.0)
        federation.stop(patience_s=0.0)


def _wait_scraped(prometheus: str, since: float) -> None:
    """Until the services that stay were scraped after a moment, and every rule was evaluated after that."""
    deadline = time.monotonic() + 60
    seen = None
    while True:
        targets = _told(prometheus, "targets")["activeTargets"]
        scraped = [_seconds(one["lastScrape"]) for one in targets if one["health"] == "up"]
        if seen is None and scraped and min(scraped) > since:
            seen = max(scraped)  # from here on: later scrapes may always come between two rules
        groups = [_seconds(one["lastEvaluation"]) for one in _told(prometheus, "rules")["groups"]]
        if seen is not None and groups and min(groups) > seen:
            return
        assert time.monotonic() < deadline, (scraped, groups, since)
        time.sleep(0.2)


def _told(prometheus: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://{prometheus}/api/v1/{path}", timeout=20) as answer:
        return json.load(answer)["data"]


def _seconds(text: str) -> float:
    """RFC 3339 with nanoseconds, since the epoch."""
    return datetime.fromisoformat(re.sub(r"\.(\d{6})\d*", r".\1", text.replace("Z", "+00:00"))).timestamp()


def _job(model: Path) -> JobSpec:
    return parse_job(
        {
            "name": JOB,
            "model": {"name": str(model), "max_length": 32},
            "task": {"labels": ["bad", "good"]},
            "adapter": {"rank": 4},
            "method": {"preset": "fedhft", "clusters": 2, "allocation": "capacity"},
            # Rounds of seconds, which a scrape a second sees; an epoch of this model takes milliseconds.
            "training": {"learning_rate": 0.01, "batch_size": 8, "epochs": 80},
            "tiers": {"small": {"density": 0.5}, "large": {"density": 1.0}},
            "client_tiers": {CLIENTS[0]: "large", CLIENTS[1]: "small", CLIENTS[2]: "small"},
            "rounds": {"total": 4, "min_clients": 3, "quorum": 1.0, "deadline": "300s", "join_timeout": "300s"},
        }
    )


def _files(folder: Path, client: str, place: int) -> ClientFiles:
    found = {}
    for name, count, offset in (("train", 40, 60 * place), ("holdout", 12, 300 + 12 * place), ("shared", 12, 400)):
        found[name] = folder / f"{client}-{name}.jsonl"
        found[name].write_text("".join(json.dumps(row) + "\n" for row in rows(count, offset)), encoding="utf-8")
    return ClientFiles(client, **found)


def _configured(folder: Path, pages: dict[str, str]) -> Path:
    """scrape.example.yaml with the addresses of this run, and everything once a second."""
    config = yaml.safe_load((FOLDER / "scrape.example.yaml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for scrape in config["scrape_configs"]:
        scrape["static_configs"] = [
            {"targets": [address for name, address in pages.items() if KINDS[name] == scrape["job_name"]]}
        ]
    text = (FOLDER / "rules.yaml").read_text(encoding="utf-8")
    assert text.count("interval: 30s") == 1
    (folder / "rules.yaml").write_text(text.replace("interval: 30s", "interval: 1s"), encoding="utf-8")
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / "prometheus.yaml"


def _page(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        return str(page.read().decode())


def promtool(*arguments: str, text: str = "") -> str:
    """What promtool prints. Fails the test when it finds fault."""
    done = subprocess.run(
        ["promtool", *arguments], input=text, capture_output=True, text=True, timeout=120, check=False, cwd=FOLDER
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in (done.stdout + done.stderr).lower()
    return done.stdout + done.stderr


# -- what needs no federation


def test_promtool_accepts_rules_and_configuration() -> None:
    print(promtool("check", "rules", "rules.yaml"), promtool("check", "config", "scrape.example.yaml"))


def test_every_alert_fires_and_does_not_fire_where_it_should() -> None:
    for part in ("jobs", "services"):
        print(promtool("test", "rules", f"rules_test_{part}.yaml"))


# -- a federation that was scraped


def test_every_process_was_scraped_and_its_page_is_clean(scraped: Scraped) -> None:
    assert set(scraped.pages) == set(KINDS)
    for name, page in scraped.pages.items():
        faults = promtool("check", "metrics", text=page)
        assert faults.strip() == "", f"{name}: {faults}"
        assert "_created" not in page
        assert name not in CLIENTS or "fedhft_store_up" not in page
    for name in ("aggregator", "clusterer"):
        assert [client for client in CLIENTS if client in scraped.pages[name]] == [], "a client id on a page"
    counts = {name: len([line for line in page.splitlines() if line[0] != "#"]) for name, page in scraped.pages.items()}
    print(f"series by page: {counts}")


def test_every_panel_has_data(scraped: Scraped) -> None:
    empty, seen = [], 0
    for title, query in queries():
        expr = concrete(query.expr)
        scraped.now(expr)
        values = scraped.values(expr)
        seen += 1
        if not values:
            empty.append(f"{title}: {expr}")
    print(f"{seen} panel queries run, {seen - len(empty)} have data")
    assert empty == []


def test_every_recording_rule_has_data_and_every_rule_is_evaluated_without_error(scraped: Scraped) -> None:
    for rule in rules("record"):
        scraped.now(rule["expr"])
        values = scraped.values(rule["record"])
        assert values, rule["record"]
        print(f"{rule['record']}: {min(values):.3g} to {max(values):.3g}")
    evaluated = [rule for group in scraped.ask("rules")["groups"] for rule in group["rules"]]
    assert len(evaluated) == len(rules("record")) + len(rules("alert"))
    assert [(rule["name"], rule.get("lastError")) for rule in evaluated if rule["health"] != "ok"] == []


def test_every_alert_runs_and_none_cries_over_a_sound_federation(scraped: Scraped) -> None:
    for rule in rules("alert"):
        scraped.now(rule["expr"])
    crying = {each["labels"]["alertname"] for each in scraped.ask("alerts")["alerts"] if each["state"] == "firing"}
    print(f"{len(rules('alert'))} alert expressions run, firing: {sorted(crying) or 'none'}")
    assert crying == set()


def test_what_agents_and_aggregator_count_is_the_same_and_counted_once(scraped: Scraped) -> None:
    of_agents = scraped.number('sum(max_over_time(fedhft_agent_payload_bytes_total{direction="up"}[1h]))')
    of_aggregator = scraped.number('sum(fedhft_payload_bytes_total{direction="up"})')
    print(f"bytes of updates: {of_agents:.0f} by agents, {of_aggregator:.0f} by the aggregator")
    # Nothing is counted twice. An agent leaves with the job: on a busy machine before its last round was scraped, a
    # quarter of what it sent.
    assert 0.7 * of_aggregator < of_agents <= of_aggregator


def test_a_job_s_last_figures_are_those_that_the_job_reports(scraped: Scraped) -> None:
    assert scraped.number(f'fedhft_federation_state{{federation="{JOB}", state="completed"}}') == 1
    assert scraped.number('fedhft_rounds_total{outcome="published"}') == 4
    assert scraped.number('fedhft_rounds_total{outcome="evaluated"}') == 1
    assert scraped.number("sum(fedhft_updates_accepted_total)") == 12
    assert scraped.now("fedhft_federation_lease_held") == []
