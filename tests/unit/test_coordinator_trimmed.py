"""Whole jobs as stories: rounds by trimmed mean, whose updates are read several times."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedhft.coordination.coordinator import Coordinator
from fedhft.coordination.decoded import DecodedUpdates
from fedhft.coordination.state_blobs import load_state
from fedhft.ids import ClientId
from fedhft.records import JobStatus
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode
from tests.unit.story import JOB, LEASE_MS, Crash, Story, rules

TRIMMED = {"method": {"preset": "fedhft", "clusters": 1, "combine": "trimmed-mean"}}
UNBOUNDED = {"sample_cap": 0, "clip": 0, "opposed": 0}
SEVERAL_PASSES = 4 << 10
"""Room for 153 of the story's 290 coordinates, of four clients."""


async def delivered(monkeypatch: pytest.MonkeyPatch, *clients: str) -> Story:
    """Updates of round 1 are there, that of b so large that it is clipped; their fold takes more than one pass."""
    monkeypatch.setattr("fedhft.aggregation.fold.MEMORY_BYTES", SEVERAL_PASSES)
    story = await Story.begin(**TRIMMED, rounds=rules(total=1, target=0.6), limits={"opposed": 0})
    await story.join("a", "b", "c", "d")
    one = story.coordinator()
    await story.settle(one)
    for client in clients:
        await story.deliver(client, scale=0.1 if client == "b" else 0.01)
    story.wait(LEASE_MS / 1000 + 1)
    return story


def coordinator(story: Story, reached: Callable[[str], None], decoded: DecodedUpdates | None = None) -> Coordinator:
    return Coordinator(
        story.store, JOB, None, "another", lease_ms=LEASE_MS, reached=reached, observe=story.published.append,
        monotonic=lambda: story.clock[0], decoded=decoded,
    )  # fmt: skip


async def test_a_fold_that_dies_between_its_passes_is_repeated_to_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = []
    for dies in (False, True):
        story = await delivered(monkeypatch, "a", "b", "c", "d")
        seen: list[str] = []

        def reached(point: str, dies: bool = dies, seen: list[str] = seen) -> None:
            seen.append(point)
            if dies and seen.count("decoding=a") == 2:
                raise Crash

        if dies:
            with pytest.raises(Crash):
                await story.settle(coordinator(story, reached))
            assert seen.count("decoding=d") == 1
            story.wait(LEASE_MS / 1000 + 1)
        await story.settle(coordinator(story, seen.append))
        assert await story.status() is JobStatus.COMPLETED
        versions.append(await story.store.version(JOB, 1))
    assert seen.count("decoding=d") == 1 + 2
    assert [one.client for one in story.published[0].summary.clipped] == ["b"]
    assert versions[0] is not None
    assert versions[0] == versions[1]


async def test_an_update_that_cannot_be_read_again_is_set_aside_as_if_it_had_never_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    story = await delivered(monkeypatch, "a", "b", "c", "d")
    lost = (await story.store.updates(JOB, 1))[ClientId("b")]
    seen: list[str] = []

    def reached(point: str) -> None:
        seen.append(point)
        if seen.count("decoding=b") == 2:
            story.store.blobs._jobs[JOB].blobs.pop(lost.digest, None)  # type: ignore[attr-defined]

    await story.settle(coordinator(story, reached))
    (entry,) = story.published
    assert [one.client for one in entry.summary.set_aside] == ["b"]
    assert entry.summary.accepted == 3
    assert not entry.summary.clipped
    assert [seen.count(f"decoding={client}") for client in "abcd"] == [4, 2, 3, 3]

    without = await delivered(monkeypatch, "a", "c", "d")
    await without.settle(coordinator(without, seen.append))
    versions = [await one.store.version(JOB, 1) for one in (story, without)]
    assert versions[0] is not None
    assert versions[0] == versions[1]


async def test_updates_that_this_process_has_decoded_already_give_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = []
    for kept in ("", "ac"):
        story = await delivered(monkeypatch, "a", "b", "c", "d")
        decoded = DecodedUpdates()
        for client, record in (await story.store.updates(JOB, 1)).items():
            if client in kept:
                data = await story.store.blobs.get(JOB, record.digest)
                delta = decode(data, story.schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta
                decoded.keep(JOB, record.digest, delta)
        await story.settle(coordinator(story, lambda point: None, decoded))
        versions.append(await story.store.version(JOB, 1))
    assert versions[0] is not None
    assert versions[0] == versions[1]


async def test_one_of_five_moves_no_value_beyond_those_of_the_others_whatever_it_sends() -> None:
    async def moved(combine: str) -> tuple[float, float]:
        method = {"preset": "fedhft", "clusters": 1, "combine": combine}
        story = await Story.begin(method=method, rounds=rules(total=1), limits=UNBOUNDED, wire={"down": "fp32"})
        honest = list("abcd")
        await story.join(*honest, "z")
        one = story.coordinator()
        await story.settle(one)
        await story.deliver(*honest, alike=1.0)
        await story.deliver("z", scale=-10.0, alike=1.0)  # a thousand times the others, flipped
        updates = await story.store.updates(JOB, 1)
        deltas = []
        for client in honest:
            data = await story.store.blobs.get(JOB, updates[ClientId(client)].digest)
            deltas.append(decode(data, story.schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta)
        await story.settle(one)
        version = await story.store.version(JOB, 1)
        state = (await load_state(story.store.blobs, JOB, story.spec, story.schema, version)).state
        beyond = largest = 0.0
        for scope in state.scope_names:
            for key, value in state.scope(scope).items():
                sent = np.stack([delta.tensors[key].dense() for delta in deltas])
                over = np.maximum(value - sent.max(axis=0), sent.min(axis=0) - value)
                beyond, largest = max(beyond, float(over.max())), max(largest, float(np.abs(value).max()))
        return beyond, largest

    beyond, largest = await moved("trimmed-mean")
    assert beyond <= 1e-7
    assert largest > 0.001
    assert (await moved("factors"))[0] > 1.0
