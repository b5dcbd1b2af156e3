"""What becomes of a certificate that was revoked, of a token that was superseded, and of a job in the middle of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fedhft.coordination.deny_list import DenyList
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.records import JobStatus
from fedhft.rpc.peer import parse_certificate
from fedhft.store.open import open_store
from fedhft.v1 import federation_pb2, jobs_pb2
from tests.aggregator import refused
from tests.cli_runner import run_cli
from tests.guarded import Guarded, guarded
from tests.light import light_job

ACCEPTED = federation_pb2.PushUpdateResponse.RESULT_ACCEPTED


@pytest.fixture
async def federation(fresh_redis_url: str, tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(fresh_redis_url, tmp_path) as running:
        yield running


async def revoke(federation: Guarded, name: str) -> None:
    """As an operator does it: the index, then the aggregator."""
    tls = federation.certificates.of("operator/olga")
    done = await asyncio.to_thread(
        run_cli,
        *("certs", "revoke", name, "--reason", "laptop stolen", "--dir", str(federation.certificates.authority.folder)),
        *("--server", federation.aggregator.address, "--tls-authority", str(tls.authority)),
        *("--tls-certificate", str(tls.certificate), "--tls-key", str(tls.key)),
    )
    assert done.returncode == 0, done.stderr


async def test_a_client_revoked_mid_job_is_refused_at_its_next_call_and_the_others_go_on(federation: Guarded) -> None:
    spec = light_job("revoked", rounds={"total": 2, "min_clients": 3, "quorum": 0.5, "deadline": "3s"})
    await federation.aggregator.submit(spec)
    alice, bob, mallory = [await federation.client(name, spec) for name in ("alice", "bob", "mallory")]
    for client in (alice, bob, mallory):
        await client.enter()
    task = await mallory.train_task()
    await revoke(federation, "agent/mallory")
    blob = mallory.update(task)
    for attempt in (
        mallory.push(mallory.header(task, blob), [(0, blob)]),
        mallory.next_task(0),
        mallory.enroll(),
        mallory.join(),
    ):
        assert (await refused(attempt))[0] is ErrorCode.CERTIFICATE_REVOKED
    assert await asyncio.gather(alice.work(), bob.work()) == ["completed", "completed"]
    job = await federation.aggregator.ended("revoked")
    assert [entry.accepted for entry in job.history] == [2, 2]
    listed = run_cli("certs", "list", "--format", "json", "--dir", str(federation.certificates.authority.folder))
    rows = {row["name"]: row for row in json.loads(listed.stdout)["certificates"]}
    assert (rows["agent/mallory"]["state"], rows["agent/mallory"]["reason"]) == ("revoked", "laptop stolen")
    assert rows["agent/alice"]["state"] == "valid"


async def test_a_new_certificate_of_the_same_client_is_let_in(federation: Guarded) -> None:
    spec = light_job("again")
    await federation.aggregator.submit(spec)
    old = await federation.client("ash", spec)
    await old.enroll()
    await revoke(federation, "agent/ash")
    with pytest.raises(FedhftError, match="was revoked"):
        federation.certificates.renew("agent/ash")
    new = await federation.client("ash", spec)  # issues anew, since no certificate is valid
    await new.enroll()
    assert (await refused(old.enroll()))[0] is ErrorCode.CERTIFICATE_REVOKED


async def test_a_revoked_operator_can_no_longer_touch_a_job(federation: Guarded) -> None:
    await revoke(federation, "operator/olga")
    call = federation.aggregator.jobs.List(jobs_pb2.ListJobsRequest(), timeout=10)
    assert (await refused(call))[0] is ErrorCode.CERTIFICATE_REVOKED


async def test_the_aggregator_that_is_told_refuses_from_then_on_without_waiting_for_news(
    fresh_redis_url: str, tmp_path: Path
) -> None:
    async with guarded(fresh_redis_url, tmp_path, following=False) as federation:
        await federation.aggregator.submit(light_job("told"))
        await revoke(federation, "operator/olga")
        call = federation.aggregator.jobs.List(jobs_pb2.ListJobsRequest(), timeout=10)
        assert (await refused(call))[0] is ErrorCode.CERTIFICATE_REVOKED


async def test_an_open_watch_of_a_revoked_operator_ends_with_the_next_news(federation: Guarded) -> None:
    await federation.aggregator.submit(light_job("watched"))
    watch = federation.aggregator.jobs.Watch(jobs_pb2.WatchJobRequest(job="watched"), timeout=20)
    assert (await anext(aiter(watch))).job == "watched"
    await revoke(federation, "operator/olga")
    await federation.store.set_status(JobId("watched"), JobStatus.CANCELLED, "", [JobStatus.WAITING])

    async def the_rest() -> None:
        async for _ in watch:
            raise AssertionError("it was told of the change")

    assert (await refused(the_rest()))[0] is ErrorCode.CERTIFICATE_REVOKED


async def test_another_replica_learns_of_a_revocation_and_refuses_an_agent_even_before(
    federation: Guarded, fresh_redis_url: str
) -> None:
    spec = light_job("replica")
    await federation.aggregator.submit(spec)
    ash = await federation.client("ash", spec)
    await ash.enroll()
    other = open_store(fresh_redis_url, "redis")
    deny_list = DenyList(other)
    certificate = parse_certificate(federation.certificates.of("agent/ash").read().certificate or b"")
    try:
        with pytest.raises(FedhftError, match="could not be read yet"):
            deny_list.check(certificate)
        async with deny_list.following():
            deny_list.check(certificate)
            await asyncio.sleep(0.2)  # its subscription stands
            await revoke(federation, "agent/ash")
            # Before any news arrives: the lease is gone, and the store enrolls nobody with this certificate.
            with pytest.raises(FedhftError) as caught:
                await other.check_lease(ash.name, ash.token)  # type: ignore[arg-type]
            assert caught.value.code is ErrorCode.NOT_ENROLLED
            with pytest.raises(FedhftError) as caught:
                await other.enroll(ash.name, 1, "", "", certificate.serial)  # type: ignore[arg-type]
            assert caught.value.code is ErrorCode.CERTIFICATE_REVOKED
            async with asyncio.timeout(5):
                while True:
                    try:
                        deny_list.check(certificate)
                    except FedhftError as error:
                        assert error.code is ErrorCode.CERTIFICATE_REVOKED  # noqa: PT017
                        break
                    await asyncio.sleep(0.01)
    finally:
        await other.close()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"serial": "x"}, "serial = "),
        ({"serial": "0"}, "serial = "),
        ({"serial": "1" * 41}, "serial = "),
        ({"identity": "agent/ash"}, "identity = "),
        ({"not_after_ms": -1}, "not_after_ms = "),
        ({"not_after_ms": 1 << 62}, "not_after_ms = "),
        ({"reason": "x" * 501}, "reason = "),
    ],
)
async def test_a_revocation_that_says_nothing_sensible_is_refused(
    federation: Guarded, changes: dict[str, object], text: str
) -> None:
    fields = {"serial": "5e1", "identity": "spiffe://a/agent/ash", "not_after_ms": 1 << 41, **changes}
    code, message = await refused(federation.aggregator.jobs.Revoke(jobs_pb2.RevokeRequest(**fields), timeout=10))
    assert (code, message.startswith(text)) == (ErrorCode.INVALID_ARGUMENT, True), message
    assert await federation.store.revocations() == {}


async def test_a_serial_number_is_the_same_in_capitals_and_with_zeros_in_front(federation: Guarded) -> None:
    fields = {"identity": "spiffe://a/agent/ash", "not_after_ms": 1 << 42}
    for serial in ("00AbC", "abc"):
        answer = await federation.aggregator.jobs.Revoke(jobs_pb2.RevokeRequest(serial=serial, **fields), timeout=10)
        assert answer.revoked == 1
    assert list(await federation.store.revocations()) == ["abc"]


async def test_a_replayed_token_is_refused_and_renews_nothing(federation: Guarded) -> None:
    spec = light_job("replay", rounds={"min_clients": 1, "total": 1})
    await federation.aggregator.submit(spec)
    first, second = await federation.client("ash", spec), await federation.client("ash", spec)
    await first.enter()
    old = first.token
    await second.enroll()  # the same client on another machine: a restart after a crash looks like this
    for _ in range(2):
        first.token = old
        assert (await refused(first.enroll()))[0] is ErrorCode.LEASE_SUPERSEDED
        assert (await refused(first.next_task(0)))[0] is ErrorCode.LEASE_SUPERSEDED
    task = await second.train_task()
    assert (await second.deliver(task)).result == ACCEPTED


async def test_a_job_says_which_operator_submitted_it(federation: Guarded) -> None:
    job = await federation.aggregator.submit(light_job("whose"))
    assert job.submitted_by == "olga"
