"""Jobs of a stranger that want more of an agent's machine and data than its owner gives; real server, real agent."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fedhft_agent.owner_rules import OwnerRules, check_offer
from fedhft_aggregator import federation_service

from fedhft import PROTOCOL_VERSION
from fedhft.errors import OUTCOMES, ErrorCode, FedhftError
from fedhft.v1 import clients_pb2, federation_pb2
from tests.agents import InProcessAgent, Site
from tests.aggregator import Aggregator, serving
from tests.guarded import guarded
from tests.light import LightClient, light_job
from tests.models import tiny_model

RULES = OwnerRules(allow_encodings=("int8",), least_updates=2, largest_share=0.8, most_epochs=2.0, most_rank=16)
FLAGS = [
    *("--allow-encodings", "int8", "--least-updates", "2", "--largest-share", "0.8"),
    *("--most-epochs", "2", "--most-rank", "16"),
]
FAIR: dict[str, Any] = {"rounds": {"total": 1, "min_clients": 2, "quorum": 1.0}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("greedy") / "model", layers=2)


async def reason_of(aggregator: Aggregator, job: str) -> str:
    """Why the agent declined the job."""
    listed = await aggregator.jobs.Clients(clients_pb2.ListClientsRequest(job=job), timeout=10)
    return next(
        c.reason for c in listed.clients if c.client == "ash" and c.state == clients_pb2.JobClient.STATE_DECLINED
    )


async def declined_task(site: Site, aggregator: Aggregator, name: str, other_samples: int) -> tuple[str, list[int]]:
    """Offer a fair job whose tasks are not; what the agent said, and which rounds it trained."""
    spec = site.job(name, **FAIR, limits={"sample_cap": 0})
    await aggregator.submit(spec)

    def serve() -> tuple[str, list[int]]:
        with InProcessAgent(site, spec, rules=RULES) as agent:
            other = asyncio.run_coroutine_threadsafe(join(agent), loop)
            other.result(10)
            with pytest.raises(FedhftError) as caught:
                agent.run()
            assert caught.value.code is ErrorCode.DECLINED
            return caught.value.message, agent.trained

    async def join(agent: InProcessAgent) -> None:
        await LightClient(aggregator.channel, "mallory", spec, agent.worker.schema).enter(samples=other_samples)

    loop = asyncio.get_running_loop()
    return await asyncio.to_thread(serve)


async def test_a_job_that_asks_for_individual_updates_is_declined_before_it_is_joined(
    fresh_redis_url: str, tmp_path: Path, model: Path
) -> None:
    async with serving(fresh_redis_url) as aggregator:
        site = Site(tmp_path, aggregator.address, aggregator.address, model)
        greedy = site.job(
            "greedy",
            method={"preset": "fedhft", "clusters": 8},
            adapter={"rank": 512},
            training={"epochs": 100},
            wire={"up": "fp32"},
            rounds={"total": 1, "min_clients": 1},
        )
        await aggregator.submit(greedy)
        process = site.process("ash", "--job", "greedy", *FLAGS)
        assert await asyncio.to_thread(process.wait, 60.0), process.describe_log()
        assert process.exit_code == OUTCOMES[ErrorCode.DECLINED].exit_code, process.describe_log()
        reason = await reason_of(aggregator, "greedy")
        for broken in ("wire.up = 'fp32'", "publishes from 1 updates", "epochs = 100", "rank = 512"):
            assert broken in reason
        assert "base model loaded" not in process.log.read_text(encoding="utf-8")
        assert list((await aggregator.get("greedy")).clients) == []


async def test_an_offer_names_the_operator_of_the_certificate_with_which_the_job_was_submitted(
    fresh_redis_url: str, tmp_path: Path
) -> None:
    async with guarded(fresh_redis_url, tmp_path) as federation:
        spec = light_job("signed")
        await federation.aggregator.submit(spec)
        ash = await federation.client("ash", spec)
        request = federation_pb2.EnrollRequest(client="ash", protocol_version=PROTOCOL_VERSION)
        (offer,) = (await ash.stub.Enroll(request, timeout=10)).jobs
        assert offer.submitted_by == "olga"
        check_offer(OwnerRules(allow_operators=("olga",)), spec, offer.submitted_by)
        with pytest.raises(FedhftError, match="submitted_by = 'olga' is not in allow_operators"):
            check_offer(OwnerRules(allow_operators=("clinic-ops",)), spec, offer.submitted_by)


async def test_a_task_in_which_an_agent_would_be_nearly_alone_is_declined_before_training(
    fresh_redis_url: str, tmp_path: Path, model: Path
) -> None:
    async with serving(fresh_redis_url) as aggregator:
        site = Site(tmp_path, aggregator.address, aggregator.address, model)
        said, trained = await declined_task(site, aggregator, "lonely", other_samples=1)
        assert "task.share = 0.97 is not within largest_share = 0.8" in said
        assert trained == []


async def test_a_server_that_asks_in_a_task_for_more_than_the_job_said_is_not_obeyed(
    fresh_redis_url: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = federation_service.next_task

    def lying(*arguments: Any) -> Any:
        answer = honest(*arguments)
        if answer is not None:
            answer.train.plan.epochs = 50
        return answer

    monkeypatch.setattr(federation_service, "next_task", lying)
    async with serving(fresh_redis_url) as aggregator:
        site = Site(tmp_path, aggregator.address, aggregator.address, model)
        said, trained = await declined_task(site, aggregator, "liar", other_samples=40)
        assert "task.plan.epochs = 50 is above most_epochs = 2" in said
        assert trained == []
