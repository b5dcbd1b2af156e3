"""Inputs that `make fuzz` found, and what they must end in."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from fedhft.certs.index import read_index
from fedhft.certs.x509 import new_authority, new_certificate
from fedhft.clustering.gaussian_mixture import MixtureModel
from fedhft.coordination.history import RoundHistory
from fedhft.errors import LONGEST_MESSAGE, ErrorCode, FedhftError
from fedhft.identity import Identity, Role
from fedhft.rounds.reports import read_report
from fedhft.rpc.peer import parse_certificate
from fedhft.training.state import STATE_FILE, StateFolder


def damaged_certificate(old: bytes, new: bytes) -> bytes:
    authority = new_authority("example.org", datetime.now(UTC), 9)
    pem = new_certificate(authority, Identity("example.org", Role.AGENT, "a"), (), datetime.now(UTC), 9).certificate_pem
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    assert old in der
    body = base64.encodebytes(der.replace(old, new, 1))
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x22"),  # version 35
        (b"\x06\x03\x55\x1d\x25", b"\x06\x03\x55\x1d\x0f"),  # the extended key usage as a second key usage
    ],
)
def test_a_certificate_of_no_known_form_is_refused(old: bytes, new: bytes) -> None:
    with pytest.raises(FedhftError) as caught:
        parse_certificate(damaged_certificate(old, new))
    assert caught.value.code is ErrorCode.NOT_AUTHORISED


@pytest.mark.parametrize("text", ['{"format": ' + "[" * 20_000, '{"format": "' + "x" * 20_000 + '"}', "[1]", "7"])
def test_a_mixture_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(FedhftError) as caught:
        MixtureModel.from_json(text)
    assert len(caught.value.message) <= LONGEST_MESSAGE


@pytest.mark.parametrize("line", ["[" * 20_000, '{"serial": "' + "x" * 20_000 + '"}', "[]", "1e999"])
def test_a_damaged_line_of_the_certificate_index_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "index"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(FedhftError, match="line 1"):
        read_index(path)


@pytest.mark.parametrize("field", ["round", "version", "clusters"])
def test_a_state_file_without_checksum_that_counts_to_infinity_is_set_aside(tmp_path: Path, field: str) -> None:
    meta = {"round": 1, "version": 1, "clusters": 1, "scopes": [], "held": {}, "signature": [], "data_digest": ""}
    header = {"format": "1", "client": "a", "spec": "s", "meta": json.dumps({**meta, field: float("inf")})}
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / STATE_FILE).write_bytes(save({"x": np.ones(1, np.float32)}, header))
    state, draft = StateFolder(tmp_path, "job", "a", "s").read()
    assert (state.round, draft) == (0, None)
    assert (tmp_path / "job" / f"{STATE_FILE}.damaged").is_file()


@pytest.mark.parametrize("name", ["ro\\ud800d", "\\udfff"])
def test_half_of_a_pair_in_a_stored_document_is_damage_and_not_a_defect(name: str) -> None:
    texts: dict[str, Callable[[str], object]] = {
        f'{{"summary": {{"{name}": 1}}, "results": [], "evaluation": false}}': RoundHistory.from_json,
        f'{{"{name}": 1}}': lambda text: read_report(text.encode()),
    }
    for text, read in texts.items():
        with pytest.raises(FedhftError) as caught:
            read(text)
        assert caught.value.code is ErrorCode.DAMAGED_RECORD
