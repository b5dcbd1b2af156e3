"""When an agent's own certificate ends, as its page shows it."""

from __future__ import annotations

import time
from pathlib import Path

from fedhft_agent.own_expiry import OwnExpiry

from fedhft.rpc.peer import expiry_of
from fedhft.rpc.tls import TlsSettings
from tests.certificates import Certificates

DAY_S = 86400


def test_without_a_certificate_there_is_no_end(tmp_path: Path) -> None:
    authority = Certificates(tmp_path).of("agent/ash").authority
    assert OwnExpiry(None).seconds() == OwnExpiry(TlsSettings(authority=authority)).seconds() == 0.0


def test_the_end_is_the_certificate_s_and_follows_a_replacement(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    tls = made.ending("agent/ash", 3600)
    expiry = OwnExpiry(tls)
    assert expiry.seconds() - time.time() < DAY_S
    new = made.of("agent/ash")
    assert tls.certificate is not None
    assert tls.key is not None
    assert new.certificate is not None
    assert new.key is not None
    for old, fresh in ((tls.certificate, new.certificate), (tls.key, new.key)):
        old.write_bytes(fresh.read_bytes())
    assert expiry.seconds() == expiry_of(new.certificate.read_bytes()) > time.time() + DAY_S


def test_the_end_of_a_certificate_that_is_over_is_shown_too(tmp_path: Path) -> None:
    assert 0 < OwnExpiry(Certificates(tmp_path).expired("agent/ash")).seconds() < time.time()


def test_files_that_are_being_replaced_leave_the_last_known_end(tmp_path: Path) -> None:
    tls = Certificates(tmp_path).of("agent/ash")
    assert tls.key is not None
    expiry = OwnExpiry(tls)
    known = expiry.seconds()
    tls.key.write_text("half a k")
    assert expiry.seconds() == known > 0
