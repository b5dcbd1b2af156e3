"""TLS files: what is refused, and how running servers and clients take up new ones."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from unittest import mock

import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.rpc.channel import ChannelSettings, open_aio_channel
from fedhft.rpc.server import ServerSettings, start_server
from fedhft.rpc.tls import TlsSettings, WatchedFiles, check_private
from fedhft.telemetry.registry import REGISTRY
from tests.certificates import Certificates
from tests.integration.rpc_service import NAME, call, echo, register, served


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def reloads(outcome: str) -> float:
    return REGISTRY.get_sample_value("fedhft_tls_reloads_total", {"outcome": outcome}) or 0.0


def key_of(tls: TlsSettings) -> Path:
    assert tls.key is not None
    return tls.key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_key_that_others_can_read_is_refused_with_the_command_that_helps(
    certificates: Certificates, mode: int
) -> None:
    tls = certificates.of("agent/ash")
    key_of(tls).chmod(mode)
    with mock.patch("os.geteuid", return_value=os.geteuid() or 0), pytest.raises(FedhftError) as caught:
        tls.channel_credentials()
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert f"chmod 600 {tls.key}" in caught.value.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of root")
def test_a_secret_that_kubernetes_mounts_for_the_group_of_a_pod_is_fine(certificates: Certificates) -> None:
    key = key_of(certificates.of("agent/ash"))
    for mode, user, fine in (
        (0o440, 1001, True), (0o640, 1001, True), (0o440, 0, False), (0o444, 1001, False), (0o460, 1001, False),
    ):  # fmt: skip
        key.chmod(mode)
        with mock.patch("os.geteuid", return_value=user):
            if fine:
                check_private(key)
            else:
                with pytest.raises(FedhftError):
                    check_private(key)
    os.chown(key, 1001, -1)
    key.chmod(0o440)
    with mock.patch("os.geteuid", return_value=1001), pytest.raises(FedhftError):
        check_private(key)


def test_files_that_do_not_belong_together_are_refused_by_name(certificates: Certificates, tmp_path: Path) -> None:
    one, two = certificates.of("agent/ash"), certificates.of("agent/bob")
    with pytest.raises(FedhftError, match=r"tls\.crt.*does not go with the key"):
        TlsSettings(one.certificate, two.key, one.authority).read()
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(FedhftError, match=r"junk: is not PEM"):
        TlsSettings(authority=tmp_path / "junk").read()
    torn = tmp_path / "torn"
    torn.write_bytes(one.certificate.read_bytes()[:200] if one.certificate else b"")
    for settings in (TlsSettings(authority=torn), TlsSettings(torn, one.key)):
        with pytest.raises(FedhftError, match=r"torn: cannot be used.*copy it again") as caught:
            settings.read()
        assert caught.value.code is ErrorCode.TLS_FILE_NOT_PEM


async def test_a_server_whose_certificate_names_no_trust_domain_says_whose_callers_to_trust(
    certificates: Certificates,
) -> None:
    own = certificates.of("aggregator")
    agent = certificates.of("agent/ash")
    anonymous = TlsSettings(own.authority, certificates.authority.folder / "ca.key", own.authority)
    with pytest.raises(FedhftError, match="--trust-domain"):
        await start_server(ServerSettings("127.0.0.1:0", tls=anonymous), register(echo), [NAME])
    told = TlsSettings(own.certificate, own.key, own.authority, trust_domain="other.example")
    async with (
        served(tls=told) as server,
        open_aio_channel(ChannelSettings(server.address, tls=agent)) as channel,
    ):
        with pytest.raises(Exception, match="this server trusts other"):
            await call(channel, "unary_unary")


async def test_a_server_shows_its_new_certificate_to_new_connections_and_keeps_the_old_ones(
    certificates: Certificates,
) -> None:
    server_files, agent = certificates.of("aggregator"), certificates.of("agent/ash")
    used = reloads("used")
    seen = []

    async def remember(request: bytes, context: object) -> None:
        seen.append(context)

    async with served(remember, tls=TlsSettings(server_files.certificate, server_files.key)) as server:
        client = TlsSettings(agent.certificate, agent.key, agent.authority)
        settings = ChannelSettings(server.address, tls=client, own_connection=True)
        async with open_aio_channel(settings) as old:
            await call(old, "unary_unary")
            before = await shown_serial(server.address)
            certificates.renew("aggregator")
            after = await shown_serial(server.address)
            assert after != before
            assert await call(old, "unary_unary") == b"x"
            async with open_aio_channel(settings) as new:
                assert await call(new, "unary_unary") == b"x"
    assert reloads("used") - used == 1


async def test_the_page_shows_when_the_certificate_in_use_ends(certificates: Certificates) -> None:
    own = certificates.of("aggregator")
    identity = certificates.authority.identity("aggregator")
    name = "fedhft_certificate_expiry_seconds"
    async with served(tls=TlsSettings(own.certificate, own.key)) as server:
        (first,) = certificates.authority.index().of(identity)
        assert REGISTRY.get_sample_value(name) == first.not_after.timestamp()
        renewed = certificates.authority.renew(identity, days=7)
        await shown_serial(server.address)
        assert REGISTRY.get_sample_value(name) == renewed.not_after.timestamp() < first.not_after.timestamp()


async def test_broken_new_files_change_nothing_but_a_log_line_and_a_counter(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    own = certificates.of("aggregator")
    refused = reloads("refused")
    async with served(tls=TlsSettings(own.certificate, own.key)) as server:
        before = await shown_serial(server.address)
        certificate, key = Path(str(own.certificate)), key_of(own)
        whole = certificate.read_bytes()  # noqa: ASYNC240 - a small local file
        for break_it in (
            lambda: certificate.write_text("half a certif"),
            lambda: certificate.unlink(),
            lambda: certificate.write_bytes(Path(str(certificates.of("agent/ash").certificate)).read_bytes()),
        ):
            break_it()
            assert await shown_serial(server.address) == before
        certificate.write_bytes(whole)  # noqa: ASYNC240
        key.chmod(0o644)
        os.utime(key)
        assert await shown_serial(server.address) == before
        key.chmod(0o600)
        certificates.renew("aggregator")
        assert await shown_serial(server.address) != before
    assert reloads("refused") - refused == 4
    assert caplog.text.count("new TLS files are not used") == 4


def test_files_in_the_middle_of_being_replaced_are_looked_at_again(certificates: Certificates) -> None:
    tls = certificates.of("agent/ash")
    files = WatchedFiles(tls)
    assert files.replaced() is None
    key = key_of(tls)
    old_key, old_certificate = key.read_bytes(), Path(str(tls.certificate)).read_bytes()
    certificates.renew("agent/ash")
    new_certificate = Path(str(tls.certificate)).read_bytes()
    Path(str(tls.certificate)).write_bytes(old_certificate)  # the moment between the key and the certificate
    assert files.replaced() is None
    Path(str(tls.certificate)).write_bytes(new_certificate)
    pems = files.replaced()
    assert pems is not None
    assert (pems.key != old_key, pems.certificate) == (True, new_certificate)
    assert files.replaced() is None
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_files_that_change_while_they_are_read_are_read_again_at_the_next_look(certificates: Certificates) -> None:
    tls = certificates.of("agent/ash")
    files = WatchedFiles(tls)
    certificates.renew("agent/ash")
    now = tls.stamp()
    with mock.patch.object(TlsSettings, "stamp", side_effect=[now, (None, *now[1:])]):
        assert files.replaced() is None
    assert files.replaced() is not None


async def shown_serial(address: str) -> str:
    """The serial number of the certificate that a server shows to a new connection."""
    import asyncio
    import ssl

    from cryptography import x509

    host, _, port = address.rpartition(":")
    pem = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)), timeout=5)
    return format(x509.load_pem_x509_certificate(pem.encode()).serial_number, "x")
