"""Row masks: every form comes back as it was, the shortest is chosen, hostile ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from fedhft.adapter import Part, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.v1 import tensor_pb2 as pb
from fedhft.wire.limit import choices_bits
from fedhft.wire.rows import decode_seeded, decode_subset, encode_seeded, encode_subset, seeded_rows
from tests.unit.wire_examples import some_rows

B = TensorKey("layer.0.query", Part.B)


@given(st.lists(st.booleans(), max_size=300))
@example([])
@example([False])
@example([True] * 9)
@example([False] * 299 + [True])
def test_a_subset_comes_back_as_it_was(present: list[bool]) -> None:
    positions = np.flatnonzero(present)
    assert decode_subset(encode_subset(positions, len(present)), len(present)).tolist() == positions.tolist()


@given(st.integers(1, 5000), st.floats(0, 1), st.integers(0, 2**32))
def test_a_random_subset_of_many_rows_comes_back_as_it_was(size: int, density: float, seed: int) -> None:
    positions = some_rows(np.random.default_rng(seed), size, int(density * size)).astype(np.int64)
    assert np.array_equal(decode_subset(encode_subset(positions, size), size), positions)


@pytest.mark.parametrize(
    ("density", "form"), [(0.0, "present"), (0.05, "present"), (0.5, "bitmap"), (0.95, "absent"), (1.0, "all")]
)
def test_the_shortest_form_is_chosen_and_read(density: float, form: str) -> None:
    positions = some_rows(np.random.default_rng(0), 4096, int(density * 4096)).astype(np.int64)
    subset = encode_subset(positions, 4096)
    assert subset.WhichOneof("form") == form
    assert np.array_equal(decode_subset(subset, 4096), positions)


@pytest.mark.parametrize("density", [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.95])
def test_rows_cost_at_most_a_twentieth_more_than_the_limit(density: float) -> None:
    positions = some_rows(np.random.default_rng(1), 20000, int(density * 20000)).astype(np.int64)
    limit = choices_bits(20000, len(positions)) / 8
    assert encode_subset(positions, 20000).ByteSize() <= 1.05 * limit + 12


def test_seeded_rows_are_distinct_ascending_and_the_same_everywhere() -> None:
    rows = seeded_rows(7, B, 100, 5)
    assert rows.tolist() == [3, 5, 43, 50, 65]
    assert rows.dtype == np.int32
    assert set(rows.tolist()) < set(seeded_rows(7, B, 100, 30).tolist())
    assert len(set(seeded_rows(7, B, 100, 100).tolist())) == 100
    assert seeded_rows(8, B, 100, 5).tolist() != rows.tolist()
    assert seeded_rows(7, TensorKey(B.name, Part.A), 100, 5).tolist() != rows.tolist()


def test_seeded_rows_travel_as_their_seed() -> None:
    keys = [B, TensorKey("layer.1.query", Part.B)]
    subset = encode_seeded(2**63 + 5, [40, 0])
    first, second = decode_seeded(subset.seeded, keys, [100, 50])
    assert np.array_equal(first, seeded_rows(2**63 + 5, B, 100, 40))
    assert second.tolist() == []


@pytest.mark.parametrize(
    ("subset", "size"),
    [
        (pb.Subset(), 8),
        (pb.Subset(seeded=pb.SeededRows(seed=1, kept=[1])), 8),
        (pb.Subset(bitmap=b"\xff"), 9),
        (pb.Subset(bitmap=b"\xff\xff"), 8),
        (pb.Subset(bitmap=b"\xff"), 7),
        (pb.Subset(present=pb.RiceGaps(count=9, parameter=0, bits=b"\xff\xff")), 8),
        (pb.Subset(present=pb.RiceGaps(count=4294967295, parameter=31)), 8),
        (pb.Subset(present=pb.RiceGaps(count=1, parameter=32, bits=b"\xff" * 5)), 8),
        (pb.Subset(present=pb.RiceGaps(count=1, parameter=31, bits=b"\xff" * 4)), 8),
        (pb.Subset(present=pb.RiceGaps(count=1, parameter=0, bits=b"")), 8),
        (pb.Subset(present=pb.RiceGaps(count=1, parameter=0, bits=b"\x00")), 8),
        (pb.Subset(present=pb.RiceGaps(count=1, parameter=0, bits=b"\x03")), 8),
        (pb.Subset(present=pb.RiceGaps(count=1, parameter=0, bits=b"\x01" + b"\x00" * 10000)), 8),
        (pb.Subset(present=pb.RiceGaps(count=1, parameter=0, bits=b"\x80")), 7),
        (pb.Subset(present=pb.RiceGaps(count=1, parameter=0, bits=b"\x01\x00\x00")), 100),
        (pb.Subset(present=pb.RiceGaps(count=0, parameter=40)), 8),
        (pb.Subset(absent=pb.RiceGaps(count=1, parameter=3, bits=b"\x0f")), 7),
    ],
)
def test_a_subset_that_no_sender_makes_is_refused(subset: pb.Subset, size: int) -> None:
    with pytest.raises(FedhftError) as refusal:
        decode_subset(subset, size)
    assert refusal.value.code is ErrorCode.MALFORMED_UPDATE


@given(st.binary(max_size=40), st.integers(0, 100))
def test_arbitrary_bytes_are_a_subset_in_range_or_refused(data: bytes, size: int) -> None:
    try:
        positions = decode_subset(pb.Subset.FromString(data), size)
    except (FedhftError, DecodeError):
        return
    assert len(positions) == 0 or (positions[0] >= 0 and positions[-1] < size and bool((np.diff(positions) > 0).all()))


@given(st.integers(0, 40), st.integers(0, 33), st.binary(max_size=40), st.integers(0, 100), st.booleans())
def test_arbitrary_gaps_are_a_subset_in_range_or_refused(
    count: int, parameter: int, bits: bytes, size: int, absent: bool
) -> None:
    gaps = pb.RiceGaps(count=count, parameter=parameter, bits=bits)
    try:
        positions = decode_subset(pb.Subset(absent=gaps) if absent else pb.Subset(present=gaps), size)
    except FedhftError:
        return
    assert len(positions) == (size - count if absent else count)
    assert len(positions) == 0 or (positions[0] >= 0 and positions[-1] < size and bool((np.diff(positions) > 0).all()))


@pytest.mark.parametrize("kept", [[], [1, 1], [11]])
def test_seeded_counts_that_do_not_fit_are_refused(kept: list[int]) -> None:
    with pytest.raises(FedhftError) as refusal:
        decode_seeded(pb.SeededRows(seed=1, kept=kept), [B], [10])
    assert refusal.value.code is ErrorCode.MALFORMED_UPDATE
