"""The clusterer over real sockets and a real Redis: memberships that last, races, bad signatures, outages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from fedhft_clusterer.clustering_service import Clustering

from fedhft.clustering.gaussian_mixture import Fitted
from fedhft.coordination.memberships import Fit
from fedhft.errors import OUTCOMES, ErrorCode
from fedhft.ids import ClientId, JobId
from fedhft.records import ClientRecord
from fedhft.rpc.channel import ChannelSettings, open_aio_channel
from fedhft.rpc.server import ServerSettings, start_server
from fedhft.rpc.status import error_from_rpc
from fedhft.store.interface import Store
from fedhft.store.open import open_store
from fedhft.telemetry.registry import REGISTRY
from fedhft.v1 import clustering_pb2 as pb
from fedhft.v1 import clustering_pb2_grpc
from tests.light import light_job

GROUPS = {f"{group}{i}": group for group in "abc" for i in range(5)}
"""Fifteen clients of three groups that point in different directions."""


def signatures(clients: Sequence[str] = tuple(GROUPS), noise: float = 0.2, seed: int = 1) -> dict[str, list[float]]:
    """Unit-norm signatures: the group's direction and some noise of the client's own."""
    directions = np.random.default_rng(0).normal(size=(3, 32))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found = {}
    for client in clients:
        own = np.random.default_rng([seed, *client.encode()]).normal(size=32) * noise / np.sqrt(32)
        raw = directions["abc".index(client[0])] + own
        found[client] = [float(x) for x in raw / np.linalg.norm(raw)]
    return found


@dataclass
class Gate:
    """Where fits run: at once, or when the test lets them."""

    fits: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, fit: Fit) -> Fitted:
        self.fits += 1
        self.started.set()
        await self.open.wait()
        return await asyncio.to_thread(fit)


@dataclass
class Clusterer:
    store: Store
    stub: Any
    gate: Gate

    async def job(self, name: str, **changes: Any) -> JobId:
        spec = light_job(name, **{"method": {"clusters": 3}, **changes})
        await self.store.create_job(JobId(name), spec.canonical())
        return JobId(name)

    async def join(self, job: str, signed: dict[str, list[float]]) -> None:
        for client, signature in signed.items():
            record = ClientRecord(
                client=client, tier="standard", samples=10, data_digest="d", signature=tuple(signature), joined_ms=0
            )
            await self.store.join(JobId(job), record)

    async def ask(self, job: str, expected: int = 0, timeout: float = 60) -> pb.UpdateMembershipsResponse:
        request = pb.UpdateMembershipsRequest(job=job, expected_version=expected, round=expected + 1)
        return await self.stub.UpdateMemberships(request, timeout=timeout)  # type: ignore[no-any-return]

    async def update(self, job: str, signed: dict[str, list[float]], expected: int = 0) -> pb.Memberships:
        """Join these clients with these signatures, ask, and read what stands then."""
        await self.join(job, signed)
        answer = await self.ask(job, expected)
        return await self.get(job, answer.version)

    async def get(self, job: str, version: int = 0) -> pb.Memberships:
        return await self.stub.GetMemberships(pb.GetMembershipsRequest(job=job, version=version), timeout=10)  # type: ignore[no-any-return]

    async def describe(self, job: str) -> pb.DescribeResponse:
        return await self.stub.Describe(pb.DescribeRequest(job=job), timeout=10)  # type: ignore[no-any-return]


@asynccontextmanager
async def serving(redis_url: str) -> AsyncIterator[Clusterer]:
    store, gate = open_store(redis_url, "redis"), Gate()
    gate.open.set()
    server = await start_server(
        ServerSettings("127.0.0.1:0"),
        lambda server: clustering_pb2_grpc.add_ClusteringServicer_to_server(Clustering(store, gate.run), server),
        ["fedhft.v1.Clustering"],
    )
    async with open_aio_channel(ChannelSettings(server.address, own_connection=True)) as channel:
        yield Clusterer(store, clustering_pb2_grpc.ClusteringStub(channel), gate)
    await server.stop(0)
    await store.close()


@pytest.fixture
async def clusterer(fresh_redis_url: str) -> AsyncIterator[Clusterer]:
    async with serving(fresh_redis_url) as running:
        yield running


def rows(message: pb.Memberships) -> dict[str, tuple[float, ...]]:
    return {row.client: tuple(row.weights) for row in message.rows}


def largest(message: pb.Memberships) -> dict[str, int]:
    return {client: int(np.argmax(weights)) for client, weights in rows(message).items()}


def clusters_by_group(message: pb.Memberships) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for client, cluster in largest(message).items():
        found.setdefault(client[0], set()).add(cluster)
    return found


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def refused(call: Awaitable[Any], status: str = "") -> tuple[ErrorCode, str]:
    """The code and text of a refusal; checks that it came under its own gRPC status, or under `status`."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = error_from_rpc(caught.value)
    assert caught.value.code().name == (status or OUTCOMES[error.code].grpc_status)
    return error.code, error.message


async def test_hidden_groups_become_clusters_and_are_in_the_store(clusterer: Clusterer) -> None:
    job = await clusterer.job("groups")
    answer = await clusterer.update(job, signatures())
    assert (answer.job, answer.version, answer.clusters, answer.round) == ("groups", 1, 3, 1)
    assert sorted(rows(answer)) == sorted(GROUPS)
    assert all(sum(weights) == pytest.approx(1.0) and len(weights) == 3 for weights in rows(answer).values())
    found = clusters_by_group(answer)
    assert sorted(cluster for clusters in found.values() for cluster in clusters) == [0, 1, 2]
    stored = await clusterer.store.memberships(job)
    assert stored is not None
    assert stored.rows == rows(answer)
    assert stored.model


async def test_clusters_keep_their_numbers_and_newcomers_find_theirs(clusterer: Clusterer) -> None:
    job = await clusterer.job("identity")
    first = await clusterer.update(job, signatures())
    version = first.version
    for seed in range(2, 6):
        signed = signatures([*GROUPS, "a9", "c9"], seed=seed)
        # Another order and other noise each time: an unmatched fit would shuffle the numbers.
        shuffled = {client: signed[client] for client in np.random.default_rng(seed).permutation(sorted(signed))}
        again = await clusterer.update(job, shuffled, expected=version)
        version = again.version
        assert {c: j for c, j in largest(again).items() if c in GROUPS} == largest(first)
        assert largest(again)["a9"] == largest(first)["a0"]
        assert largest(again)["c9"] == largest(first)["c0"]
    assert version == 5


async def test_the_fit_goes_on_from_the_last_one_even_in_another_process(
    clusterer: Clusterer, fresh_redis_url: str
) -> None:
    job = await clusterer.job("handover", clustering={"smoothing": 0.25})
    first = await clusterer.update(job, signatures())
    moved = signatures()
    moved["a0"] = moved["b0"]
    async with serving(fresh_redis_url) as replica:
        second = await replica.update(job, moved, expected=1)
    was, became = largest(first)["a0"], largest(first)["b0"]
    # A quarter of the old membership stays, by the job's smoothing (the default is a half).
    assert rows(second)["a0"][was] == pytest.approx(0.25, abs=0.01)
    assert rows(second)["a0"][became] == pytest.approx(0.75, abs=0.01)


async def test_who_has_no_signature_keeps_its_memberships_and_who_left_loses_them(clusterer: Clusterer) -> None:
    job = await clusterer.job("unsampled")
    first = await clusterer.update(job, signatures())
    await clusterer.store.leave(job, ClientId("a1"))
    await clusterer.store.set_signature(job, ClientId("a0"), ())  # joined, and not signed any more
    asked = [client for client in GROUPS if client not in ("a0", "a1")]
    second = await clusterer.update(job, signatures(asked, seed=2), expected=1)
    assert rows(second)["a0"] == rows(first)["a0"]
    assert "a1" not in rows(second)


async def test_a_repeated_request_finds_the_first_ones_result(clusterer: Clusterer) -> None:
    job = await clusterer.job("repeated")
    first = await clusterer.update(job, signatures())
    again = await clusterer.update(job, signatures())
    assert again == first
    assert clusterer.gate.fits == 1
    latest = await clusterer.store.memberships(job)
    assert latest is not None
    assert latest.version == 1


async def test_requests_at_the_same_time_share_one_fit(clusterer: Clusterer) -> None:
    job = await clusterer.job("shared")
    await clusterer.join(job, signatures())
    clusterer.gate.open.clear()
    calls = [asyncio.create_task(clusterer.ask(job)) for _ in range(5)]
    await asyncio.wait_for(clusterer.gate.started.wait(), 5)
    await asyncio.sleep(0.1)
    clusterer.gate.open.set()
    answers = await asyncio.gather(*calls)
    assert all(answer == answers[0] for answer in answers)
    assert clusterer.gate.fits == 1


async def test_of_two_replicas_one_publishes_and_both_answer_with_it(
    clusterer: Clusterer, fresh_redis_url: str
) -> None:
    job = await clusterer.job("race")
    lost = counted("fedhft_clusterings_total", outcome="lost")
    async with serving(fresh_redis_url) as replica:
        clusterer.gate.open.clear()
        await clusterer.join(job, signatures(seed=1))
        slow = asyncio.create_task(clusterer.ask(job))
        await asyncio.wait_for(clusterer.gate.started.wait(), 5)  # has read version 0, and fits
        winner = await replica.update(job, signatures(seed=2))
        clusterer.gate.open.set()
        assert (await slow).version == winner.version
    assert winner.version == 1
    latest = await clusterer.store.memberships(job)
    assert latest is not None
    assert (latest.version, latest.rows) == (1, rows(winner))
    assert counted("fedhft_clusterings_total", outcome="lost") == lost + 1


async def test_a_caller_that_gives_up_finds_the_result_when_it_comes_back(clusterer: Clusterer) -> None:
    job = await clusterer.job("impatient")
    await clusterer.join(job, signatures())
    clusterer.gate.open.clear()
    code, _ = await refused(clusterer.ask(job, timeout=0.3), "DEADLINE_EXCEEDED")
    assert code is ErrorCode.SERVER_UNAVAILABLE
    clusterer.gate.open.set()
    assert (await clusterer.ask(job)).version == 1
    assert clusterer.gate.fits == 1


BAD = {
    "nan": ("b2", [0.1, float("nan"), 0.2] + [0.0] * 29, r"signature of client 'b2'[1] = nan: is not finite"),
    "infinite": ("b2", [float("inf")] + [0.0] * 31, "signature of client 'b2'[0] = inf: is not finite"),
    "short": ("b2", [0.1, 0.2], "signature of client 'b2' = '2 values': the first client's has 32"),
}


@pytest.mark.parametrize("case", sorted(BAD))
async def test_a_signature_that_cannot_be_used_is_refused_by_the_clients_name(clusterer: Clusterer, case: str) -> None:
    client, signature, problem = BAD[case]
    job = await clusterer.job("bad")
    before = counted("fedhft_refusals_total", code="invalid_argument")
    code, text = await refused(clusterer.update(job, {**signatures(), client: signature}))
    assert code is ErrorCode.INVALID_ARGUMENT
    assert problem in text
    assert counted("fedhft_refusals_total", code="invalid_argument") == before + 1
    assert await clusterer.store.memberships(job) is None


async def test_requests_that_make_no_sense_are_refused_by_field(clusterer: Clusterer) -> None:
    job = await clusterer.job("senseless")
    assert await refused(clusterer.ask("nowhere")) == (ErrorCode.UNKNOWN_JOB, AnyText("nowhere"))
    assert await refused(clusterer.ask("No Job")) == (ErrorCode.INVALID_ARGUMENT, AnyText("job = "))
    assert await refused(clusterer.ask(job)) == (ErrorCode.INVALID_ARGUMENT, AnyText("no client has a signature yet"))
    await clusterer.join(job, {"a0": [], "b0": []})
    assert await refused(clusterer.ask(job)) == (ErrorCode.INVALID_ARGUMENT, AnyText("clients = 2: no client"))
    await clusterer.join(job, signatures())
    ahead = clusterer.ask(job, expected=7)
    assert await refused(ahead) == (ErrorCode.INVALID_ARGUMENT, AnyText("expected_version = 7: the latest is 0"))
    assert await clusterer.store.memberships(job) is None


class AnyText(str):
    """Equal to every text that contains it."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and str(self) in other


async def test_versions_can_be_read_again_and_described(clusterer: Clusterer) -> None:
    job = await clusterer.job("described")
    assert await clusterer.get(job) == pb.Memberships(job=job)
    assert await clusterer.describe(job) == pb.DescribeResponse(job=job)
    first = await clusterer.update(job, signatures())
    second = await clusterer.update(job, signatures(seed=2), expected=1)
    assert await clusterer.get(job, 1) == first
    assert await clusterer.get(job) == await clusterer.get(job, 2) == second
    assert (await refused(clusterer.get(job, 9)))[0] is ErrorCode.INVALID_ARGUMENT
    assert (await refused(clusterer.get("nowhere")))[0] is ErrorCode.UNKNOWN_JOB
    description = await clusterer.describe(job)
    assert description.version == 2
    assert [one.clients for one in description.clusters] == [5, 5, 5]
    assert sum(one.mass for one in description.clusters) == pytest.approx(15.0)
    assert 0.9 < description.mean_largest_membership <= 1.0
    assert description.dimensions >= 2
    assert description.log_likelihood != 0.0
    assert counted("fedhft_memberships_version", federation="described") == 2
    assert [counted("fedhft_cluster_clients", federation="described", cluster=str(j)) for j in range(3)] == [5, 5, 5]


async def test_too_few_clients_are_all_in_one_cluster(clusterer: Clusterer) -> None:
    job = await clusterer.job("few")
    answer = await clusterer.update(job, signatures(["a0", "b0", "c0"]))
    assert answer.clusters == 1
    assert set(rows(answer).values()) == {(1.0,)}
    assert (await clusterer.describe(job)).dimensions == 0
