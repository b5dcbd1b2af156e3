"""`fedhft certs`: what it issues is what openssl and gRPC accept, and nothing is overwritten or lost."""

from __future__ import annotations

import base64
import json
import shutil
import stat
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhft.certs.authority import Authority
from fedhft.certs.files import locked
from fedhft.certs.index import Entry, Index, read_index, write_index
from fedhft.certs.x509 import new_authority, new_certificate
from fedhft.errors import ErrorCode, FedhftError
from fedhft.identity import parse_path
from fedhft.rpc.peer import parse_certificate
from tests.cli_runner import Done, run_cli


def certs(folder: Path, *arguments: str) -> Done:
    return run_cli("certs", *arguments, FEDHFT_CERTS_DIR=str(folder))


def told(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    done = certs(folder, *arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout)["certificates"])


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "certs"
    assert certs(folder, "init", "clinics.example").returncode == 0
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_openssl_verifies_what_was_issued_for_its_purpose_and_no_other(folder: Path) -> None:
    told(folder, "issue", "agent/clinic-1")
    told(folder, "issue", "clusterer", "--host", "clusterer.internal", "--host", "10.0.0.7", "--host", "[::1]")
    agent, clusterer, ca = folder / "agent/clinic-1/tls.crt", folder / "clusterer/tls.crt", folder / "ca.crt"
    openssl("verify", "-x509_strict", "-CAfile", ca, "-purpose", "sslclient", agent)
    openssl("verify", "-x509_strict", "-CAfile", ca, "-purpose", "sslserver", clusterer)
    openssl("verify", "-CAfile", ca, "-verify_ip", "10.0.0.7", clusterer)
    for purpose, file in (("sslserver", agent), ("sslclient", clusterer)):
        with pytest.raises(AssertionError, match="unsuitable certificate purpose"):
            openssl("verify", "-CAfile", ca, "-purpose", purpose, file)
    text = openssl("x509", "-in", clusterer, "-noout", "-text")
    assert "DNS:clusterer.internal, IP Address:10.0.0.7, IP Address:0:0:0:0:0:0:0:1" in text
    assert "URI:spiffe://clinics.example/clusterer" in text
    assert "CA:TRUE, pathlen:0" in openssl("x509", "-in", ca, "-noout", "-text")
    assert parse_certificate(agent.read_bytes()).identity.uri == "spiffe://clinics.example/agent/clinic-1"


def test_keys_are_for_their_owner_only_and_every_holder_has_a_folder_with_all_it_needs(folder: Path) -> None:
    told(folder, "issue", "operator/olga")
    own = folder / "operator/olga"
    assert sorted(path.name for path in own.iterdir()) == ["ca.crt", "tls.crt", "tls.key"]
    assert (mode(own / "tls.key"), mode(folder / "ca.key"), mode(folder)) == (0o600, 0o600, 0o700)
    assert (own / "ca.crt").read_bytes() == (folder / "ca.crt").read_bytes()
    assert openssl("x509", "-in", own / "tls.crt", "-noout", "-pubkey") == openssl(
        "pkey", "-in", own / "tls.key", "-pubout"
    )


def test_repeating_a_command_changes_nothing(folder: Path) -> None:
    told(folder, "issue", "agent/a")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert certs(folder, "init", "clinics.example").returncode == 0
    told(folder, "issue", "agent/a")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_authority_of_another_trust_domain_is_not_overwritten(folder: Path) -> None:
    key = (folder / "ca.key").read_bytes()
    refused = certs(folder, "init", "other.example")
    assert (refused.returncode, "is the authority of clinics.example" in refused.stderr) == (14, True)
    assert (folder / "ca.key").read_bytes() == key


def test_a_renewed_certificate_has_the_same_identity_and_hosts_and_a_new_key(folder: Path) -> None:
    (first,) = told(folder, "issue", "aggregator", "--host", "agg.example", "--days", "10")
    old = (folder / "aggregator/tls.key").read_bytes()
    (second,) = told(folder, "renew", "aggregator")
    assert (second["identity"], second["hosts"]) == (first["identity"], first["hosts"])
    assert second["serial"] != first["serial"]
    assert second["days_left"] in (89, 90)
    assert (folder / "aggregator/tls.key").read_bytes() != old
    openssl("verify", "-CAfile", folder / "ca.crt", folder / "aggregator/tls.crt")
    (third,) = told(folder, "renew", "aggregator", "--host", "other.example")
    assert third["hosts"] == ["other.example"]
    assert [row["state"] for row in told(folder, "list")] == ["valid"] * 3


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    authority = Authority.init(tmp_path / "short", "clinics.example", days=3)
    assert authority.issue(authority.identity("agent/a"), days=90).not_after == authority.not_after


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["issue", "root/a"], "is not an identity"),
        (["issue", "agent/UPPER"], "is not an identity"),
        (["issue", "aggregator"], "give every name and address under which it is reached"),
        (["issue", "agent/a", "--host", "h"], "is for servers only"),
        (["issue", "clusterer", "--host", "a b"], "is not a host"),
        (["issue", "agent/a", "--days", "0"], "--days = 0: is out of range"),
        (["renew", "agent/nobody"], "no certificate was issued under it"),
        (["init", "UPPER"], "is not a trust domain"),
    ],
)
def test_what_cannot_be_issued_is_refused_with_the_fix(folder: Path, arguments: list[str], text: str) -> None:
    refused = certs(folder, *arguments)
    assert (refused.returncode, text in refused.stderr) == (14, True), refused.stderr
    assert list(folder.glob("*/*")) == []


def test_a_folder_without_an_authority_with_an_open_key_or_a_damaged_file_is_refused_by_name(folder: Path) -> None:
    assert "make one: fedhft certs init" in certs(folder.parent / "none", "list").stderr
    (folder / "ca.key").chmod(0o640)
    assert f"chmod 600 {folder / 'ca.key'}" in certs(folder, "list").stderr
    (folder / "ca.key").chmod(0o600)
    (folder / "index.jsonl").write_text('{"serial": "1"}\n')
    assert "line 1 is not an entry" in certs(folder, "list").stderr
    (folder / "index.jsonl").unlink()
    (folder / "ca.crt").write_text("x")
    assert "has a damaged ca.crt or ca.key" in certs(folder, "list").stderr


def test_the_index_is_read_back_as_it_was_written(folder: Path) -> None:
    authority = Authority(folder)
    entry = authority.issue(authority.identity("agent/a"))
    index = Index((entry,)).with_revoked([entry.serial], entry.not_after, "lost laptop")
    write_index(folder / "index.jsonl", index)
    assert read_index(folder / "index.jsonl") == index
    assert isinstance(read_index(folder / "index.jsonl").entries[0], Entry)
    assert read_index(folder / "nothing") == Index()


def test_a_certificate_without_one_identity_of_ours_is_refused_and_says_what_is_missing(folder: Path) -> None:
    for pem in (b"", b"junk", (folder / "ca.crt").read_bytes()):
        with pytest.raises(FedhftError, match="spiffe://<trust domain>/agent/<client id>") as caught:
            parse_certificate(pem)
        assert caught.value.code is ErrorCode.NOT_AUTHORISED


def test_revoking_by_name_takes_all_valid_certificates_and_by_serial_number_one(folder: Path) -> None:
    (first,) = told(folder, "issue", "agent/a")
    (second,) = told(folder, "renew", "agent/a")
    told(folder, "issue", "agent/b")
    assert [row["serial"] for row in told(folder, "revoke", first["serial"], "--reason", "old laptop")] == [
        first["serial"]
    ]
    assert [row["state"] for row in told(folder, "list")] == ["revoked", "valid", "valid"]
    again = told(folder, "revoke", "agent/a", "--reason", "all of it")
    assert [(row["serial"], row["reason"]) for row in again] == [
        (first["serial"], "old laptop"),
        (second["serial"], "all of it"),
    ]
    assert told(folder, "revoke", "agent/a", "--reason", "once more") == again
    assert [row["state"] for row in told(folder, "list")] == ["revoked", "revoked", "valid"]
    refused = certs(folder, "renew", "agent/a")
    assert (refused.returncode, "was revoked" in refused.stderr) == (14, True)
    (third,) = told(folder, "issue", "agent/a")
    assert third["state"] == "valid"
    assert "no certificate was issued under it" in certs(folder, "revoke", "agent/nobody").stderr


def test_without_a_server_a_revocation_says_that_no_service_knows_it(folder: Path) -> None:
    told(folder, "issue", "agent/a")
    assert "no service was told" in certs(folder, "revoke", "agent/a").stderr


def test_files_lost_on_the_way_are_made_again(folder: Path) -> None:
    (first,) = told(folder, "issue", "agent/a")
    shutil.rmtree(folder / "agent/a")
    (second,) = told(folder, "issue", "agent/a")
    assert second["serial"] != first["serial"]
    openssl("verify", "-CAfile", folder / "ca.crt", folder / "agent/a/tls.crt")


def test_an_authority_that_lost_its_certificate_is_made_anew_only_if_it_never_issued_one(folder: Path) -> None:
    (folder / "ca.crt").unlink()  # as after a crash between the authority's key and its certificate
    assert certs(folder, "init", "clinics.example").returncode == 0
    told(folder, "issue", "agent/b")
    openssl("verify", "-CAfile", folder / "ca.crt", folder / "agent/b/tls.crt")
    key = (folder / "ca.key").read_bytes()
    (folder / "ca.crt").unlink()
    refused = certs(folder, "init", "clinics.example")
    assert (refused.returncode, "copy it back from the folder of any holder" in refused.stderr) == (14, True)
    assert (folder / "ca.key").read_bytes() == key
    shutil.copy(folder / "agent/b/ca.crt", folder)
    told(folder, "issue", "agent/c")
    openssl("verify", "-CAfile", folder / "ca.crt", folder / "agent/c/tls.crt")


def test_two_commands_do_not_change_one_authority_at_the_same_time(folder: Path) -> None:
    with locked(folder):
        refused = certs(folder, "issue", "agent/a")
    assert (refused.returncode, "is in use by another command" in refused.stderr) == (14, True)
    told(folder, "issue", "agent/a")


@pytest.fixture(scope="module")
def der() -> bytes:
    """A server's certificate, with every extension that ours have."""
    now = datetime.now(UTC)
    authority = new_authority("clinics.example", now, 10)
    identity = parse_path("clinics.example", "aggregator")
    made = new_certificate(authority, identity, ("agg.example", "10.0.0.1"), now, 1)
    return made.certificate.public_bytes(serialization.Encoding.DER)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(max_examples=1500, deadline=None)
@given(
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 9), st.binary(max_size=4)), max_size=8)
)
def test_a_damaged_certificate_is_read_or_refused_and_nothing_else(
    der: bytes, edits: list[tuple[float, int, bytes]]
) -> None:
    for place, removed, added in edits:
        at = int(place * len(der))
        der = der[:at] + added + der[at + removed :]
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    try:
        parse_certificate(pem)
    except FedhftError as error:
        assert error.code is ErrorCode.NOT_AUTHORISED  # noqa: PT017


def test_what_cryptography_raises_beyond_value_errors_is_caught(der: bytes) -> None:
    version = der.index(b"\xa0\x03\x02\x01\x02") + 4
    twice = der.index(b"\x06\x03\x55\x1d\x13") + 4  # basic constraints become a second subject alternative name
    for changed in (der[:version] + b"\x07" + der[version + 1 :], der[:twice] + b"\x11" + der[twice + 1 :]):
        pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(changed) + b"-----END CERTIFICATE-----\n"
        with pytest.raises(FedhftError, match="cannot be parsed"):
            parse_certificate(pem)


def test_a_serial_number_is_written_as_openssl_writes_it(folder: Path) -> None:
    (row,) = told(folder, "issue", "agent/a")
    shown = openssl("x509", "-in", folder / "agent/a/tls.crt", "-noout", "-serial").strip().removeprefix("serial=")
    assert int(shown, 16) == int(row["serial"], 16)
    certificate = x509.load_pem_x509_certificate((folder / "agent/a/tls.crt").read_bytes())
    assert row["not_after"] == certificate.not_valid_after_utc.isoformat()
