"""Agents with little memory in a real federation: each gets the largest plan that fits, and the job goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from fedhft.jobs.client import JobsClient
from fedhft.local.processes import ServiceProcess, stop_all
from fedhft.v1 import clients_pb2
from tests.agents import Site, running_site
from tests.models import tiny_model

MIB = 1 << 20
MIDDLING, TINY = 360 * MIB, 120 * MIB
"""A process with its libraries takes some 220 MiB, a layer of the model 27 MiB, and a depth of all layers 162 MiB."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("memory"), redis_url) as running:
        yield running


@pytest.fixture
def started() -> Iterator[list[ServiceProcess]]:
    processes: list[ServiceProcess] = []
    yield processes
    stop_all(processes, 0.0, 15.0)


def wide_model(path: Path) -> Path:
    """Six layers of BERT-base's size, with the words of the tiny models, in bf16: layers are converted when read."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(path))
    config = BertConfig(vocab_size=len(tokenizer), num_hidden_layers=6, max_position_embeddings=64)
    BertModel(config).to(torch.bfloat16).save_pretrained(path)
    return path


def clients_of(site: Site, job: str) -> dict[str, clients_pb2.JobClient]:
    with JobsClient(site.admin) as jobs:
        return {one.client: one for one in jobs.clients(job)}


def test_an_agent_gets_the_largest_plan_that_fits_or_declines_with_the_numbers_and_the_job_goes_on(
    site: Site, tmp_path: Path, started: list[ServiceProcess]
) -> None:
    model = {"name": str(wide_model(tmp_path / "model")), "max_length": 32}
    tiers = {"large": {}, "small": {"depth": 1, "density": 0.5}, "smallest": {"depth": 1, "density": 0.25}}
    spec = site.submit(
        "budgets", model=model, tiers=tiers, client_tiers={"ample": "large"},
        rounds={"min_clients": 2, "deadline": "300s", "join_timeout": "300s"},
    )  # fmt: skip
    given = {"ample": "0", "middling": str(MIDDLING), "tiny": str(TINY)}
    for client, memory in given.items():
        tier = ["--tier", "large"]
        started.append(site.process(client, "--job", spec.name, "--memory", memory, *tier))
    ample, middling, tiny = started
    assert tiny.wait(200), tiny.describe_log()
    assert tiny.exit_code == 23, tiny.describe_log()
    for process in (ample, middling):
        assert process.wait(300), process.describe_log()
        assert process.exit_code == 0, process.describe_log()
    assert site.get("budgets").status == "completed"
    found = clients_of(site, "budgets")
    assert found["ample"].tier == "large"
    assert not found["ample"].too_large
    assert found["middling"].tier == "small"
    assert found["middling"].rounds_delivered == 2
    ((declined,),) = (found["middling"].too_large,)
    assert declined.tier == "large"
    assert declined.needed_bytes > declined.allowed_bytes == MIDDLING
    refused = found["tiny"]
    assert refused.state == clients_pb2.JobClient.STATE_DECLINED
    assert f"--memory = {TINY}" in refused.reason
    assert "no tier of the job is smaller" in refused.reason
    shown = subprocess.run(
        [sys.executable, "-m", "fedhft.cli", "job", "clients", "budgets", "--server", site.admin],
        capture_output=True, text=True, check=True, env={"COLUMNS": "200", "PATH": "", **_python_path()},
    ).stdout  # fmt: skip
    assert "tier large needs" in shown
    assert "of 360.0 MiB" in shown


def _python_path() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(sys.path)}
