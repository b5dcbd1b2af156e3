from __future__ import annotations

import asyncio

from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.readiness import ReadinessWatch


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
