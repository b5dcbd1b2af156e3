"""Places of transfers, as the page shows them."""

from __future__ import annotations

import asyncio

from fedhft_aggregator.transfer_places import TransferPlaces

from fedhft.ids import ClientId
from fedhft.telemetry.registry import REGISTRY


def waiting(direction: str) -> float | None:
    return REGISTRY.get_sample_value("fedhft_transfers_waiting", {"direction": direction})


async def test_who_waits_for_a_place_is_counted_by_direction_until_it_has_one_or_goes_away() -> None:
    places = TransferPlaces(1, "up")

    async def take(client: str) -> None:
        async with places.place(ClientId(client)):
            pass

    async with places.place(ClientId("a")):
        patient, gone = asyncio.create_task(take("b")), asyncio.create_task(take("c"))
        await asyncio.sleep(0)
        assert (waiting("up"), waiting("down")) == (2, 0)
        gone.cancel()
        await asyncio.wait([gone])
        assert waiting("up") == 1
    await asyncio.wait_for(patient, 5)
    assert waiting("up") == 0
