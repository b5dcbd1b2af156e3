from __future__ import annotations

import asyncio
import logging

import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.readiness import ReadinessWatch
from fedhft.telemetry.reminders import Reminders


class Store:
    """Something that can be away, hang, or have a defect."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hangs = False

    async def ping(self) -> None:
        if self.hangs:
            await asyncio.sleep(60)
        if self.error is not None:
            raise self.error


async def test_readiness_follows_the_check_both_ways_and_everybody_is_told() -> None:
    store, told = Store(), list[bool]()

    async def tell(ready: bool) -> None:
        told.append(ready)

    async def until(ready: bool) -> str:
        async with asyncio.timeout(5):
            while watch.ready()[0] is not ready or told[-1] is not ready:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return watch.ready()[1]

    watch = ReadinessWatch(store.ping, interval_s=0.02, answer_s=0.05)
    assert watch.ready() == (False, "starting")
    await watch.start(tell)
    assert watch.ready() == (True, "")
    assert told == [True]
    store.error = FedhftError(ErrorCode.STORE_UNAVAILABLE, "the store does not answer")
    assert await until(False) == "the store does not answer"
    store.error = None
    await until(True)
    store.hangs = True
    assert "no answer within 0.05 s" in await until(False)
    store.hangs = False
    await until(True)
    store.error = ZeroDivisionError("a secret")
    assert await until(False) == "the check failed: ZeroDivisionError"
    store.error = None
    await until(True)
    await watch.stop()
    assert watch.ready() == (False, "stopping")
    assert told[-1] is False
    told.clear()
    await asyncio.sleep(0.1)
    assert told == []


async def nobody(ready: bool) -> None:
    pass


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [vars(record)["reason"] for record in caplog.records if record.getMessage() == "not ready"]


async def test_a_store_that_is_away_when_a_service_starts_is_logged_once_with_its_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    store = Store()
    store.error = FedhftError(ErrorCode.STORE_UNAVAILABLE, "the store does not answer")
    watch = ReadinessWatch(store.ping, interval_s=0.01)
    await watch.start(nobody)
    await asyncio.sleep(0.2)
    assert reasons(caplog) == ["the store does not answer"]
    store.error = None
    async with asyncio.timeout(5):
        while not watch.ready()[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    store.error = FedhftError(ErrorCode.STORE_UNAVAILABLE, "the store does not answer")
    await asyncio.sleep(0.2)
    await watch.stop()
    assert reasons(caplog) == ["the store does not answer"] * 2, "a second outage is news"


async def test_a_store_that_stays_away_is_logged_again_at_a_low_rate_and_sooner_when_the_reason_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Store()
    store.error = FedhftError(ErrorCode.STORE_UNAVAILABLE, "no answer")
    watch = ReadinessWatch(store.ping, interval_s=0.01, reminders=Reminders(remind_s=0.3, news_s=0.1))
    await watch.start(nobody)
    await asyncio.sleep(0.75)
    assert 2 <= reasons(caplog).count("no answer") <= 3
    store.error = FedhftError(ErrorCode.STORE_UNAVAILABLE, "no such volume")
    await asyncio.sleep(0.2)
    await watch.stop()
    assert reasons(caplog)[-1] == "no such volume"
