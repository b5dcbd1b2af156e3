"""When an aggregator says that it cannot reach its clusterer."""

from __future__ import annotations

import logging

import pytest
from fedhft_aggregator.clusterer_watch import ClustererWatch

from fedhft.errors import ErrorCode, FedhftError

AWAY = FedhftError(ErrorCode.SERVER_UNAVAILABLE, "connection refused")
EXPIRED = FedhftError(ErrorCode.SERVER_CERTIFICATE_EXPIRED, "has expired")


def test_a_clusterer_that_starts_at_the_same_time_is_not_trouble_and_one_that_stays_away_is() -> None:
    watch = ClustererWatch("clusterer:50052", None)
    watch._note(AWAY)
    assert watch.trouble == ""
    watch._note(None)
    watch._note(AWAY)
    assert watch.trouble == ""
    watch._note(AWAY)
    assert watch.trouble.startswith("clusterer: connection refused; ")


def test_what_waiting_cannot_cure_is_said_at_once_and_once_until_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    watch = ClustererWatch("clusterer:50052", None)
    for _ in range(3):
        watch._note(EXPIRED)
    assert watch.trouble.startswith("clusterer: has expired; ")
    watch._note(None)
    assert watch.trouble == ""
    watch._note(EXPIRED)
    assert [record.message for record in caplog.records] == [
        "the clusterer cannot be reached",
        "the clusterer can be reached again",
        "the clusterer cannot be reached",
    ]
