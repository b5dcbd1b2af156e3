"""Who may call what, by real certificates over real sockets; and what a wrong or a stolen one is good for."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from fedhft.errors import ErrorCode
from fedhft.identity import Role
from fedhft.rpc.channel import ChannelSettings, open_aio_channel
from fedhft.rpc.roles import ROLE_OF_METHOD
from fedhft.rpc.status import error_from_rpc
from fedhft.v1 import clustering_pb2, federation_pb2, jobs_pb2
from tests.aggregator import refused
from tests.certificates import Certificates
from tests.guarded import Guarded, guarded
from tests.integration.rpc_service import call, served
from tests.light import light_job

ROOT = Path(__file__).resolve().parent.parent.parent
HOLDERS = {
    Role.AGENT: "agent/ash", Role.OPERATOR: "operator/olga", Role.AGGREGATOR: "aggregator", Role.CLUSTERER: "clusterer",
}  # fmt: skip
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in (clustering_pb2, federation_pb2, jobs_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every method there is, from the services' descriptors."""


def documented() -> dict[str, str]:
    """Service -> the role that the documents say may call it."""
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `(fedhft\.v1\.\w+)`[^|]*\| (\w+) \|", text, re.M))


@pytest.fixture
async def federation(fresh_redis_url: str, tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(fresh_redis_url, tmp_path) as running:
        yield running


async def outcome(channel: grpc.aio.Channel, name: str) -> ErrorCode | None:
    """What a call with an empty request comes to; None when it is answered."""
    method = METHODS[name]

    async def requests() -> AsyncIterator[bytes]:
        yield b""

    try:
        if method.client_streaming:
            await channel.stream_unary(name)(requests(), timeout=10)
        elif method.server_streaming:
            async for _ in channel.unary_stream(name)(b"", timeout=10):
                pass
        else:
            await channel.unary_unary(name)(b"", timeout=10)
    except grpc.aio.AioRpcError as error:
        return error_from_rpc(error).code
    return None


@pytest.mark.parametrize("role", sorted(set(Role) - {Role.CLUSTERER}))
async def test_a_certificate_opens_the_methods_of_its_role_and_no_other(federation: Guarded, role: Role) -> None:
    assert documented().keys() == {name.split("/")[1] for name in METHODS}, "a service without its row in the documents"
    channel = await federation.channel(federation.certificates.of(HOLDERS[role]))
    found = {name: await outcome(channel, name) for name in METHODS}
    for name, code in found.items():
        allowed = documented()[name.split("/")[1]] == role
        assert (code is not ErrorCode.NOT_AUTHORISED) == allowed, f"{role} {name}: {code}"
        assert (ROLE_OF_METHOD[name] is role) == allowed
        assert code is not ErrorCode.INTERNAL, f"{name} fails on an empty request"


async def test_a_certificate_of_the_clusterer_cannot_be_a_client_at_all(federation: Guarded) -> None:
    channel = await federation.channel(federation.certificates.of("clusterer"))
    assert {await outcome(channel, name) for name in list(METHODS)[:2]} == {ErrorCode.SERVER_UNAVAILABLE}


async def test_an_agent_is_the_client_of_its_certificate_and_no_other(federation: Guarded) -> None:
    spec = light_job("names", rounds={"min_clients": 1})
    await federation.aggregator.submit(spec)
    ash = await federation.client("ash", spec)
    await ash.enter()
    impostor = await federation.client("ash", spec, federation.certificates.of("agent/mallory"))
    code, text = await refused(impostor.enroll())
    assert code is ErrorCode.IDENTITY_MISMATCH
    assert "spiffe://clinics.example/agent/mallory" in text
    impostor.token = ash.token  # even with the lease in hand
    task = await ash.train_task()
    blob = ash.update(task)
    calls = [
        impostor.enroll(),
        impostor.stub.Preview(federation_pb2.PreviewRequest(client="ash"), timeout=10),
        impostor.join(),
        impostor.next_task(0),
        impostor.push(impostor.header(task, blob), [(0, blob)]),
        impostor.stub.Leave(federation_pb2.LeaveRequest(client="ash", lease_token=ash.token), timeout=10),
        impostor.stub.Decline(federation_pb2.DeclineRequest(client="ash", lease_token=ash.token), timeout=10),
    ]
    for attempt in calls:
        assert (await refused(attempt))[0] is ErrorCode.IDENTITY_MISMATCH
    assert (await ash.deliver(task)).result == federation_pb2.PushUpdateResponse.RESULT_ACCEPTED


async def test_no_certificate_a_foreign_one_and_an_expired_one_are_not_let_in(
    federation: Guarded, tmp_path: Path
) -> None:
    own = federation.certificates
    foreign = Certificates(tmp_path / "elsewhere")  # the same trust domain, another authority
    alien = foreign.of("agent/ash")
    for tls in (
        None,
        type(alien)(authority=own.of("agent/ash").authority),
        type(alien)(alien.certificate, alien.key, own.of("agent/ash").authority),
        own.expired("agent/ash"),
    ):
        channel = await federation.channel(tls)
        assert await outcome(channel, "/fedhft.v1.Federation/Enroll") is ErrorCode.SERVER_UNAVAILABLE


async def test_another_trust_domain_under_the_same_authority_is_refused(tmp_path: Path) -> None:
    own = Certificates(tmp_path)
    other = Certificates(tmp_path, "other.example")
    server = own.of("aggregator")
    both = tmp_path / "both.crt"
    both.write_bytes((own.authority.folder / "ca.crt").read_bytes() + (other.authority.folder / "ca.crt").read_bytes())
    alien = other.of("agent/ash")
    async with served(tls=type(server)(server.certificate, server.key, both)) as running:
        settings = ChannelSettings(running.address, tls=type(alien)(alien.certificate, alien.key, server.authority))
        async with open_aio_channel(settings) as channel:
            code, text = await refused(call(channel, "unary_unary"))
    assert (code, "this server trusts clinics.example" in text) == (ErrorCode.NOT_AUTHORISED, True)


async def test_a_certificate_that_expires_on_an_open_connection_is_refused_from_then_on(
    federation: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    spec = light_job("expiry")
    await federation.aggregator.submit(spec)
    ash = await federation.client("ash", spec)
    await ash.enroll()
    later = time.time() + 91 * 86400
    with monkeypatch.context() as patch:
        patch.setattr("fedhft.rpc.peer.time.time", lambda: later)
        code, text = await refused(ash.enroll())
    assert (code, "expired at" in text) == (ErrorCode.NOT_AUTHORISED, True)
    await ash.enroll()


@pytest.mark.parametrize("thief", ["agent/mallory", "operator/olga"])
async def test_a_participant_s_certificate_is_no_good_for_posing_as_the_server(tmp_path: Path, thief: str) -> None:
    certificates = Certificates(tmp_path)
    async with served(tls=certificates.of(thief)) as server:
        settings = ChannelSettings(server.address, tls=certificates.of("agent/ash"))
        async with open_aio_channel(settings) as channel:
            code, text = await refused_transport(channel)
    assert (code, "TLS handshake failed" in text) == (ErrorCode.SERVER_UNAVAILABLE, True)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"], ids=["nothing", "half a hello"])
async def test_a_connection_that_never_shakes_hands_is_closed(tmp_path: Path, sent: bytes) -> None:
    certificates = Certificates(tmp_path)
    async with served(tls=certificates.of("aggregator"), handshake_s=0.5) as server:
        host, _, port = server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                assert await reader.read(1) == b""
        writer.close()


async def refused_transport(channel: grpc.aio.Channel) -> tuple[ErrorCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "unary_unary", timeout=10)
    error = error_from_rpc(caught.value)
    return error.code, error.message
