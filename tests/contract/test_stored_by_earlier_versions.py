"""What earlier versions left in Redis and in agents' state directories is read, and their jobs are finished."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from fedhft.coordination.coordinator import Coordinator
from fedhft.coordination.history import RoundHistory
from fedhft.ids import ClientId, JobId
from fedhft.job import load_canonical, parse_job
from fedhft.plan import AdapterPlan
from fedhft.readings import History
from fedhft.records import JobStatus, Phase, UpdateRecord
from fedhft.simulation.clusterer import LocalClusterer
from fedhft.store.interface import Store
from fedhft.training.state import StateFolder, spec_digest
from fedhft.wire.digest import digest_of

STORED = Path(__file__).resolve().parent.parent / "stored"
VERSIONS = sorted(path.name for path in STORED.iterdir() if path.is_dir())
CLIENTS = ("a", "b", "c", "d")


def content(version: str, name: str) -> Any:
    return json.loads((STORED / version / name).read_text(encoding="utf-8"))


async def restore(version: str, admin: Redis) -> None:
    """Put a dump into an empty Redis."""
    raw = base64.b64decode
    for key, kept in content(version, "redis.json").items():
        value = kept["value"]
        match kept["type"]:
            case "string":
                await admin.set(key, raw(value))
            case "hash":
                await admin.hset(key, mapping={raw(k): raw(v) for k, v in value.items()})  # type: ignore[misc]
            case "list":
                await admin.rpush(key, *map(raw, value))  # type: ignore[misc]
            case "set":
                await admin.sadd(key, *map(raw, value))  # type: ignore[misc]
            case "zset":
                await admin.zadd(key, {raw(k): score for k, score in value.items()})


async def tokens_of(store: Store) -> dict[str, str]:
    agents = await store.agents([ClientId(client) for client in CLIENTS])
    return {str(client): agent.lease_token for client, agent in agents.items()}


async def settle(coordinator: Coordinator) -> None:
    while await coordinator.step() == 0.0:
        pass


@pytest.mark.parametrize("name", ["factors", "products"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_job_that_an_earlier_version_began_is_finished(
    version: str, name: str, own_store: Store, admin: Redis
) -> None:
    await restore(version, admin)
    store, job, expected = own_store, JobId(name), content(version, "expected.json")[name]
    current = await store.round(job)
    assert current is not None
    assert (current.number, current.phase) == (3, Phase.COLLECTING)
    plans = {client: part.plan for client, part in current.participants.items()}
    assert plans == {client: AdapterPlan(**plan) for client, plan in expected["plans"].items()}

    tokens = await tokens_of(store)
    for client, token in tokens.items():
        await store.check_lease(ClientId(client), token)  # the agents are still there
    data = base64.b64decode(expected["missing"])
    await store.blobs.put(job, data)
    update = UpdateRecord(
        client="d", round=3, base_version=2, digest=digest_of(data), size=len(data),
        samples=current.participants["d"].samples, report=expected["report"].encode(),
    )  # fmt: skip
    await store.accept(job, update, tokens["d"])
    coordinator = Coordinator(store, job, LocalClusterer(store), "upgraded")
    await settle(coordinator)

    published = await store.version(job)
    assert published is not None
    assert published.version == 3
    wanted = expected["version"]
    for group in ("deltas", "snapshots", "server_state"):
        blobs = {scope: blob.model_dump() for scope, blob in getattr(published, group).items()}
        if name == "factors":  # sums in a fixed order; products go through a decomposition that differs by machine
            assert blobs == wanted[group]
        assert blobs.keys() == wanted[group].keys()
    memberships = await store.memberships(job)
    assert memberships is not None
    assert memberships.clusters == expected["clusters"]
    for client, row in expected["memberships"].items():
        assert memberships.rows[client] == pytest.approx(row, abs=1e-6)

    entries = [RoundHistory.from_json(text) for text in (await store.history(job)).entries]
    for entry, summary in zip(entries, expected["summaries"], strict=True):
        told = json.loads(entry.to_json())["summary"]
        del told["seconds"]
        assert told.keys() >= summary.keys()  # later releases add figures, and lose none
        for field, value in summary.items():
            assert told[field] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), field
    assert (await store.traffic(job, CLIENTS)).keys() == set(CLIENTS)

    spec = load_canonical((await store.job(job)).spec_json)
    fourth = await store.round(job)
    assert fourth is not None
    assert (fourth.number, fourth.phase, sorted(fourth.participants)) == (4, Phase.COLLECTING, list(CLIENTS))
    assert spec.rounds.total == 4
    assert (await store.job(job)).status is JobStatus.RUNNING


@pytest.mark.parametrize("version", VERSIONS)
async def test_old_rounds_of_a_job_that_an_earlier_version_began_are_dropped(
    version: str, own_store: Store, admin: Redis
) -> None:
    await restore(version, admin)
    store, job = own_store, JobId("factors")
    begun = await store.history(job)
    assert begun.kept_from == 1
    assert [RoundHistory.from_json(text).summary.round for text in begun.entries] == [1, 2]
    current, latest = await store.round(job), await store.version(job)
    assert current is not None
    assert latest is not None
    fence = await store.acquire(job, "upgraded", 60_000)
    assert fence is not None
    await store.begin_fold(job, current.number, fence)
    await store.publish(job, current.number, latest, "third", fence, None, 2)
    assert await store.history(job) == History(2, (begun.entries[1], "third"))
    assert await store.history(job, 0, 2) == History(2, (begun.entries[1],))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_agents_state_of_an_earlier_version_is_read(version: str, tmp_path: Path) -> None:
    told = content(version, "agent.json")
    spec = parse_job(told["spec"])
    folder = tmp_path / spec.name
    folder.mkdir()
    for name in ("memory.safetensors", "draft.safetensors"):
        shutil.copy(STORED / version / name, folder / name)
    state, draft = StateFolder(tmp_path, spec.name, "a", spec_digest(spec.canonical())).read()
    assert state.round == 1
    assert state.signature == pytest.approx(tuple(told["signature"]))
    assert state.data_digest == told["data_digest"]
    assert sorted(f"{key.part.value}:{key.name}" for key in state.rows) == told["rows"]
    assert sorted(f"{key.part.value}:{key.name}" for key in state.carried) == told["carried"]
    assert float(sum(abs(error).sum() for error in state.carried.values())) == pytest.approx(told["carried_sum"])
    assert draft is not None
    assert (draft.round, draft.base_version, draft.digest) == (2, 0, told["digest"])
    assert (digest_of(draft.blob), draft.size, draft.measurements.steps) == (
        told["digest"], told["size"], told["steps"],
    )  # fmt: skip
    assert draft.after.round == 2
