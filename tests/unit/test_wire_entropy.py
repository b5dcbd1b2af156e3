"""The entropy stage: what goes in comes out, never longer, close to the entropy, and bombs do not go off."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fedhft.errors import ErrorCode, FedhftError
from fedhft.v1 import tensor_pb2 as pb
from fedhft.wire.entropy import entropy_bits, pack, unpack
from tests.unit.memory import peak_of

RNG = np.random.default_rng(0)


def coded_size(stream: pb.Stream) -> int:
    return len(stream.stored) + len(stream.zstd) + len(stream.deflate)


def magicless(data: bytes, *, content_size: bool = False) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=int(content_size)
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def refusal_of(stream: pb.Stream, size: int) -> ErrorCode:
    with pytest.raises(FedhftError) as refusal:
        unpack(stream, size)
    return refusal.value.code


def raw_deflate(data: bytes) -> bytes:
    writer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return writer.compress(data) + writer.flush()


def codes(kind: str) -> bytes:
    """64 KiB of int8 codes."""
    size = 65536
    if kind == "bell":
        array = RNG.normal(size=size) * 40
    elif kind == "flat":
        array = RNG.uniform(-105, 105, size)
    else:
        array = RNG.normal(size=size) * 40 * (RNG.random(size) < 0.5)
    return np.clip(np.rint(array), -127, 127).astype(np.int8).tobytes()


@given(
    st.one_of(st.binary(max_size=2000), st.builds(lambda data, n: data * n, st.binary(max_size=9), st.integers(0, 500)))
)
def test_a_stream_comes_back_as_it_was_and_never_longer(data: bytes) -> None:
    stream = pack(data)
    assert unpack(stream, len(data)) == data
    assert coded_size(stream) <= len(data)


@pytest.mark.parametrize("kind", ["bell", "flat", "half zeros"])
def test_codes_are_coded_within_one_percent_of_their_entropy(kind: str) -> None:
    data = codes(kind)
    stream = pack(data)
    assert unpack(stream, len(data)) == data
    assert coded_size(stream) <= 1.01 * entropy_bits(data) / 8


def test_noise_is_stored_as_it_is() -> None:
    noise = RNG.bytes(50000)
    assert pack(noise).stored == noise


def test_long_runs_almost_vanish() -> None:
    stream = pack(bytes(1 << 20))
    assert stream.WhichOneof("coding") == "zstd"
    assert coded_size(stream) < 100


def test_codes_that_zstd_would_store_are_deflated() -> None:
    data = codes("flat")
    assert len(magicless(data)) >= len(data)
    assert pack(data).WhichOneof("coding") == "deflate"


@pytest.mark.parametrize(
    "stream",
    [
        pb.Stream(),
        pb.Stream(stored=b"x" * 99),
        pb.Stream(stored=b"x" * 101),
        pb.Stream(zstd=b""),
        pb.Stream(zstd=b"junk"),
        pb.Stream(zstd=magicless(b"x" * 99)),
        pb.Stream(zstd=magicless(b"x" * 101)),
        pb.Stream(zstd=magicless(b"x" * 100)[:-1]),
        pb.Stream(zstd=magicless(b"x" * 100) + b"x"),
        pb.Stream(zstd=magicless(b"x" * 50) * 2),
        pb.Stream(deflate=b""),
        pb.Stream(deflate=b"junk"),
        pb.Stream(deflate=raw_deflate(b"x" * 99)),
        pb.Stream(deflate=raw_deflate(b"x" * 101)),
        pb.Stream(deflate=raw_deflate(b"x" * 100)[:-1]),
        pb.Stream(deflate=raw_deflate(b"x" * 100) + b"x"),
        pb.Stream(deflate=raw_deflate(b"x" * 50) * 2),
    ],
)
def test_a_stream_of_another_size_or_with_a_tail_is_refused(stream: pb.Stream) -> None:
    assert refusal_of(stream, 100) is ErrorCode.MALFORMED_UPDATE


@pytest.mark.parametrize(
    "stream", [pb.Stream(zstd=magicless(b"")), pb.Stream(deflate=raw_deflate(b"")), pb.Stream(zstd=b"x")]
)
def test_a_frame_for_no_bytes_is_refused(stream: pb.Stream) -> None:
    assert refusal_of(stream, 0) is ErrorCode.MALFORMED_UPDATE


@pytest.mark.parametrize(
    "stream",
    [
        pb.Stream(zstd=magicless(bytes(100_000_000))),
        pb.Stream(zstd=magicless(bytes(100_000_000), content_size=True)),
        pb.Stream(deflate=raw_deflate(bytes(100_000_000))),
    ],
    ids=["zstd", "zstd that states its size", "deflate"],
)
def test_a_bomb_is_refused_without_being_inflated(stream: pb.Stream) -> None:
    code, peak = peak_of(lambda: refusal_of(stream, 1000))
    assert code is ErrorCode.MALFORMED_UPDATE
    assert peak < 1_000_000


@pytest.mark.parametrize("stream", [pb.Stream(), pb.Stream(zstd=magicless(b"x" * 100)), pb.Stream(deflate=b"x")])
def test_a_few_bytes_for_a_large_stream_are_refused_without_allocating_it(stream: pb.Stream) -> None:
    code, peak = peak_of(lambda: refusal_of(stream, 1_000_000_000))
    assert code is ErrorCode.MALFORMED_UPDATE
    assert peak < 1_000_000


def test_the_most_that_frames_can_inflate_is_allowed() -> None:
    assert unpack(pack(bytes(50_000_000)), 50_000_000) == bytes(50_000_000)


@given(st.binary(max_size=60), st.integers(0, 200))
def test_arbitrary_frames_are_refused_or_have_the_size_asked_for(data: bytes, size: int) -> None:
    for stream in (pb.Stream(zstd=data), pb.Stream(deflate=data)):
        size_or_code: object
        try:
            size_or_code = len(unpack(stream, size))
        except FedhftError as refusal:
            size_or_code = refusal.code
        assert size_or_code in (size, ErrorCode.MALFORMED_UPDATE)
