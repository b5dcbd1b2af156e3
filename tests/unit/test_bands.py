"""Versions in bands of layers: whatever a client's depths were, the layers it holds are the server's, bit for bit."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhft.adapter import SHARED, AdapterState, Float32, MaskedDelta, Part, TensorKey, cluster_scope
from fedhft.aggregation.regrouping import regroup, renewed
from fedhft.aggregation.versions import ServerState, apply_delta, with_version
from fedhft.bands import MOST_BANDS, Band, between, layer_of, thinned
from fedhft.coordination.state_blobs import save_state
from fedhft.coordination.tasks import view_of
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.records import VersionRecord
from fedhft.rounds.fetching import Held, fetches, scopes_needed
from fedhft.rounds.requests import held_of
from fedhft.rounds.retention import oldest_kept
from fedhft.store.blobs_in_memory import InMemoryBlobs
from fedhft.training.held import complete_at, held_bands, with_blob
from fedhft.training.state import StateFolder, WorkerState
from fedhft.v1 import adapter_pb2
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.codec import decode, encode
from fedhft.wire.digest import digest_of
from tests.unit.wire_examples import delta_of, schema_of

JOB = JobId("j")
LAYERS = 4
SCHEMA = schema_of(layers=LAYERS, width=6, rank=2)
DELTA, SNAPSHOT = adapter_pb2.BLOB_KIND_DELTA, adapter_pb2.BLOB_KIND_SNAPSHOT


# -- bands


def test_bands_follow_one_another_and_share_out_all_tensors() -> None:
    bands = between((1, 3, 4))
    assert bands == (Band(0, 1), Band(1, 3), Band(3, 4))
    for key in SCHEMA.keys:
        assert [band.has(key, SCHEMA) for band in bands].count(True) == 1
    head = TensorKey("classifier.bias", Part.HEAD)
    assert bands[0].has(head, SCHEMA)
    assert layer_of(TensorKey("layer.0.q", Part.A), SCHEMA) == LAYERS


@given(st.sets(st.integers(1, 48), min_size=1))
def test_of_many_depths_some_are_left_and_always_the_greatest(depths: set[int]) -> None:
    left = thinned(depths)
    assert set(left) <= depths
    assert left[-1] == max(depths)
    assert len(left) == min(MOST_BANDS, len(depths))
    assert list(left) == sorted(set(left))


@pytest.mark.parametrize(("beyond", "depth"), [(0, 0), (2, 2), (3, 1)])
def test_a_band_has_a_layer(beyond: int, depth: int) -> None:
    with pytest.raises(FedhftError) as caught:
        Band(beyond, depth)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


# -- a server and clients


@dataclass
class Server:
    """Publishes versions of random deltas, and keeps as many records as a coordinator does."""

    blobs: InMemoryBlobs = field(default_factory=InMemoryBlobs)
    versions: dict[int, VersionRecord] = field(default_factory=dict)
    state: AdapterState = field(default_factory=lambda: AdapterState(0, 2))

    def publish(self, seed: int, depth: int, ends: tuple[int, ...], origins: Sequence[Sequence[float]] = ()) -> None:
        number = self.state.version + 1
        rng = np.random.default_rng(seed)
        data = {}
        for place, scope in enumerate(self.state.scope_names):
            if number > 1 and rng.random() < 0.2:
                continue  # nobody of this cluster took part
            delta = delta_of(SCHEMA, 0.6, seed + place)
            reached = {
                key: one for key, one in delta if layer_of(key, SCHEMA) <= depth and (number == 1 or rng.random() < 0.9)
            }
            if reached:
                data[scope] = encode(
                    MaskedDelta(reached), SCHEMA, kind=DELTA, encoding="int8", group=16, scope=scope, version=number
                )
                self.state = apply_delta(self.state, decode(data[scope], SCHEMA, kind=DELTA))
        server = ServerState(with_version(self.state, number))
        if origins:
            server = regroup(server, origins)
        self.state = server.state
        record = asyncio.run(save_state(self.blobs, JOB, SCHEMA, server, data, number, origins, between(ends)))
        assert record.renewed == renewed(origins)
        self.versions[number] = VersionRecord.model_validate_json(record.model_dump_json(exclude_none=True))
        self.versions = {n: one for n, one in self.versions.items() if n >= oldest_kept(number)}

    def view(self, held: Held, depth: int, memberships: tuple[float, ...]) -> pb.ViewSource:
        found = fetches(self.versions, self.state.version, scopes_needed(memberships), held, depth)
        return view_of(self.state.version, found, memberships, ())


@dataclass
class Client:
    """Holds what it fetched. folder: where its state goes through, if any."""

    folder: Path | None = None
    state: WorkerState = field(default_factory=WorkerState)
    fetched: int = 0

    def held(self, *, takes_bands: bool = True) -> Held:
        whole = [pb.HeldScope(scope=scope, version=version) for scope, version in self.state.held.items()]
        parts = held_bands(self.state) if takes_bands else []
        return held_of(pb.NextTaskRequest(held=whole, held_bands=parts, takes_bands=takes_bands))

    def take_part(
        self, server: Server, depth: int, memberships: tuple[float, ...], *, takes_bands: bool = True, most: int = 99
    ) -> bool:
        """Fetch what a task lists, at most so many blobs of it; whether that was all."""
        view = server.view(self.held(takes_bands=takes_bands), depth, memberships)
        if not takes_bands:
            assert not view.depth
            assert not any(ref.HasField("band") for ref in view.blobs)
        for ref in view.blobs[:most]:
            data = asyncio.run(server.blobs.get(JOB, ref.digest.hex()))
            self.fetched += len(data)
            self.state = with_blob(self.state, SCHEMA, ref, data)
        done = len(view.blobs) <= most
        if done:
            self.state = complete_at(self.state, view, memberships, SCHEMA, depth)
        if self.folder is not None:
            folder = StateFolder(self.folder, "job", "ash", "spec")
            assert folder.write_state(self.state)
            self.state, _ = folder.read()
        return done

    def check(self, history: Mapping[int, AdapterState]) -> None:
        """Every layer that is said to be held at a version is the server's of that version, bit for bit."""
        for scope in {*self.state.held, *self.state.parts}:
            versions = self.state.parts.get(scope, (self.state.held.get(scope, -1),) * LAYERS)
            assert scope not in self.state.held or scope not in self.state.parts
            for number, version in enumerate(versions, 1):
                if version >= 0:
                    mine = layer(self.state.adapters.scope(scope), number)
                    assert same(mine, layer(history[version].scope(scope), number)), (scope, number, version)


def layer(tensors: Mapping[TensorKey, Float32], number: int) -> dict[TensorKey, Float32]:
    return {key: tensor for key, tensor in tensors.items() if layer_of(key, SCHEMA) == number}


def same(one: Mapping[TensorKey, Float32], other: Mapping[TensorKey, Float32]) -> bool:
    return one.keys() == other.keys() and all(one[key].tobytes() == other[key].tobytes() for key in one)


ROUNDS = st.lists(
    st.tuples(
        st.integers(0, 2**20),  # what is published
        st.integers(1, LAYERS),  # by clients of this depth
        st.sampled_from([(1, 4), (1, 4), (2, 3, 4), (1, 2, 3, 4), (4,), ()]),  # in these bands
        st.sampled_from([(), (), (), ((1.0, 0.0), (0.5, 0.5)), ((0.0, 1.0), (1.0, 0.0))]),  # regrouped
        st.sampled_from([0, 1, 1, 1, 2]),  # fetches
        st.integers(1, LAYERS),  # depth of the client's plan
        st.sampled_from([(1.0, 0.0), (0.4, 0.6), (0.0, 1.0)]),  # its memberships
        st.sampled_from([True, True, True, False]),  # as an agent that takes bands
        st.sampled_from([99, 99, 1]),  # blobs until it is stopped
    ),
    max_size=14,
)


@settings(deadline=None, max_examples=30)
@given(ROUNDS, st.booleans())
def test_whatever_the_depths_what_is_held_is_the_servers_bit_for_bit(
    rounds: list[
        tuple[int, int, tuple[int, ...], tuple[tuple[float, ...], ...], int, int, tuple[float, ...], bool, int]
    ],
    on_disk: bool,
) -> None:
    with TemporaryDirectory() as folder:
        server, client = Server(), Client(Path(folder) if on_disk else None)
        history = {0: server.state}
        for seed, reached, ends, origins, times, depth, memberships, takes_bands, most in rounds:
            server.publish(seed, reached, ends, origins)
            history[server.state.version] = server.state
            for _ in range(times):
                done = client.take_part(server, depth, memberships, takes_bands=takes_bands, most=most)
                client.check(history)
                if not done:
                    continue
                for scope in (SHARED, *(cluster_scope(j) for j, weight in enumerate(memberships) if weight)):
                    for number in range(1, depth + 1):
                        mine = layer(client.state.adapters.scope(scope), number)
                        assert same(mine, layer(server.state.scope(scope), number)), (scope, number)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, LAYERS)), min_size=1, max_size=8))
def test_bands_never_cost_more_than_whole_versions_but_for_their_headers(rounds: list[tuple[int, int]]) -> None:
    server, banded, whole = Server(), Client(), Client()
    for seed, depth in rounds:
        server.publish(seed, LAYERS, (1, 2, 3, 4))
        banded.take_part(server, depth, (0.5, 0.5))
        whole.take_part(server, depth, (0.5, 0.5), takes_bands=False)
    assert banded.fetched <= whole.fetched + 150 * 4 * 3 * len(rounds)


def test_a_shallow_client_fetches_less_and_then_only_what_it_lacks() -> None:
    server, shallow = Server(), Client()
    for seed in range(5):
        server.publish(7 * seed + 3, LAYERS, (1, 4))
        shallow.take_part(server, 1, (1.0, 0.0))
    view = server.view(shallow.held(), LAYERS, (1.0, 0.0))
    assert {(ref.band.beyond, ref.band.depth) for ref in view.blobs} == {(1, 4)}
    assert view.depth == LAYERS
    assert shallow.take_part(server, LAYERS, (1.0, 0.0))
    assert not shallow.state.parts


# -- what is not believed


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (adapter_pb2.HeldBand(scope="other", version=1, band=adapter_pb2.Band(beyond=0, depth=1)), "held_bands.scope"),
        (
            adapter_pb2.HeldBand(scope=SHARED, version=1 << 60, band=adapter_pb2.Band(beyond=0, depth=1)),
            "held_bands.version",
        ),
        (adapter_pb2.HeldBand(scope=SHARED, version=1, band=adapter_pb2.Band(beyond=3, depth=1)), "band"),
        (adapter_pb2.HeldBand(scope=SHARED, version=1), "band"),
    ],
)
def test_what_an_agent_says_it_holds_is_checked(part: adapter_pb2.HeldBand, field: str) -> None:
    with pytest.raises(FedhftError, match=field) as caught:
        held_of(pb.NextTaskRequest(held_bands=[part], takes_bands=True))
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_an_agent_cannot_tell_of_bands_without_end() -> None:
    parts = [
        adapter_pb2.HeldBand(scope=SHARED, version=1, band=adapter_pb2.Band(beyond=depth, depth=depth + 1))
        for depth in range(5000)
    ]
    with pytest.raises(FedhftError, match="more than 4096 bands of a scope"):
        held_of(pb.NextTaskRequest(held_bands=parts, takes_bands=True))


def ref_of(data: bytes, band: tuple[int, int] | None, kind: int = DELTA, version: int = 1) -> adapter_pb2.BlobRef:
    return adapter_pb2.BlobRef(
        digest=bytes.fromhex(digest_of(data)), size=len(data), kind=adapter_pb2.BlobKind.ValueType(kind), scope=SHARED,
        version=version, band=adapter_pb2.Band(beyond=band[0], depth=band[1]) if band else None,
    )  # fmt: skip


def blob_of(band: Band, version: int = 1) -> bytes:
    delta = band.of(delta_of(SCHEMA, 1.0, version), SCHEMA)
    return encode(delta, SCHEMA, kind=DELTA, encoding="int8", scope=SHARED, version=version)


@pytest.mark.parametrize(
    ("band", "says"),
    [
        ((0, 1), "not of layers 1 to 1"),
        ((1, 3), "not of layers 2 to 3"),
        ((3, 9), "not within"),
        ((2, 2), "not within"),
    ],
)
def test_a_blob_of_other_layers_than_the_task_says_is_refused(band: tuple[int, int], says: str) -> None:
    data = blob_of(Band(0, 3))
    with pytest.raises(FedhftError, match=says) as caught:
        with_blob(WorkerState(), SCHEMA, ref_of(data, band), data)
    assert caught.value.code is ErrorCode.MALFORMED_UPDATE


def test_a_delta_is_not_added_twice() -> None:
    data = blob_of(Band(0, 2))
    state = with_blob(WorkerState(), SCHEMA, ref_of(data, (0, 2)), data)
    with pytest.raises(FedhftError, match="held at version 1 already") as caught:
        with_blob(state, SCHEMA, ref_of(data, (0, 2)), data)
    assert caught.value.code is ErrorCode.MALFORMED_UPDATE


def test_a_band_that_is_held_in_pieces_begins_anew() -> None:
    """The server was told of no version of it, and so lists what leads to it from nothing."""
    inner, outer = blob_of(Band(0, 1), version=2), blob_of(Band(1, 3), version=1)
    state = with_blob(WorkerState(), SCHEMA, ref_of(outer, (1, 3)), outer)
    state = with_blob(state, SCHEMA, ref_of(inner, (0, 1), version=2), inner)
    assert state.parts[SHARED] == (2, 1, 1, -1)
    assert [(one.version, one.band.beyond, one.band.depth) for one in held_bands(state)] == [(2, 0, 1), (1, 1, 3)]
    data = blob_of(Band(0, 2), version=1)
    state = with_blob(state, SCHEMA, ref_of(data, (0, 2)), data)
    begun = with_blob(WorkerState(), SCHEMA, ref_of(data, (0, 2)), data)
    assert state.parts[SHARED] == (1, 1, 1, -1)
    for number in (1, 2):
        assert same(layer(state.adapters.scope(SHARED), number), layer(begun.adapters.scope(SHARED), number))


def test_a_whole_delta_of_a_scope_held_in_parts_begins_it_anew() -> None:
    """As from a server that knows no bands, which was told that nothing is held."""
    part, whole = blob_of(Band(0, 2), version=2), blob_of(Band(0, LAYERS), version=1)
    state = with_blob(WorkerState(), SCHEMA, ref_of(part, (0, 2), version=2), part)
    state = with_blob(state, SCHEMA, ref_of(whole, None), whole)
    begun = with_blob(WorkerState(), SCHEMA, ref_of(whole, None), whole)
    assert (state.held, state.parts) == ({SHARED: 1}, {})
    assert same(state.adapters.scope(SHARED), begun.adapters.scope(SHARED))


def test_a_view_of_fewer_layers_than_the_plan_trains_is_refused() -> None:
    view = pb.ViewSource(version=1, memberships=[1.0], depth=2)
    with pytest.raises(FedhftError, match=r"view\.depth = 2: is less than the plan's depth, 3") as caught:
        complete_at(WorkerState(), view, (1.0,), SCHEMA, 3)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_an_earlier_release_does_not_take_a_part_on_disk_for_the_whole(tmp_path: Path) -> None:
    """It reads the groups and scopes it knows, and so finds nothing of the scope, which it fetches anew."""
    data = blob_of(Band(0, 2))
    state = with_blob(WorkerState(), SCHEMA, ref_of(data, (0, 2)), data)
    assert StateFolder(tmp_path, "job", "ash", "spec").write_state(state)
    whole = (tmp_path / "job" / "memory.safetensors").read_bytes()
    assert b'"part/shared/' in whole
    assert b'"state/shared/' not in whole
