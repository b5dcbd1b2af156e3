"""The entropy stage: a byte stream of known size, stored or coded, whichever is shortest.

Codes of a trained adapter look like noise, so matches found in them are accidents. zstd's `fast` strategy with its
longest minimum match leaves nearly every byte to its Huffman stage, which stays within about half a percent of the
zeroth-order entropy and takes a tenth of a millisecond for 64 KiB. But zstd stores a block in which no byte is more
frequent than 1/128, and so gives away up to 3 percent on codes that fill their range evenly; and on streams that are
mostly zeros it finds costly matches. Where the entropy shows such a gap, deflate's bare Huffman coding is tried, and
then its run-length matching.
"""

from __future__ import annotations

import threading
import zlib

import numpy as np
import zstandard
from zstandard import ZstdCompressionParameters

from fedhft.errors import ErrorCode, FedhftError
from fedhft.v1 import tensor_pb2 as pb

_SMALL_GAP = 1.005
"""A coded stream this close to its entropy is good enough."""
_WORTH_CODING = 16
_RAW_DEFLATE = -15
_LARGEST_BLOCKS = 9
_MOST_INFLATION = 1 << 15
"""A zstd block of 4 bytes makes at most 128 KiB; deflate inflates far less."""


class _Contexts(threading.local):
    """zstd contexts are costly to make and not safe to share between threads."""

    def __init__(self) -> None:
        # The reader knows the size and the blob has a digest, so the frame carries neither size, checksum nor magic.
        parameters = ZstdCompressionParameters.from_level(
            1,
            strategy=zstandard.STRATEGY_FAST,
            min_match=7,
            format=zstandard.FORMAT_ZSTD1_MAGICLESS,
            write_content_size=0,
            write_checksum=0,
            write_dict_id=0,
        )
        self.writer = zstandard.ZstdCompressor(compression_params=parameters)
        self.reader = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)


_contexts = _Contexts()


def entropy_bits(stream: bytes) -> float:
    """N H(stream): bits of a stream of N bytes at its zeroth-order entropy."""
    counts = np.bincount(np.frombuffer(stream, np.uint8))
    counts = counts[counts > 0]
    return float((counts * np.log2(len(stream) / counts)).sum())


def pack(raw: bytes) -> pb.Stream:
    """Code a stream; never more bytes than `raw`. Equal input gives equal bytes."""
    if len(raw) < _WORTH_CODING:
        return pb.Stream(stored=raw)
    frame = _contexts.writer.compress(raw)
    enough = _SMALL_GAP * entropy_bits(raw) / 8
    best = pb.Stream(stored=raw) if len(raw) <= len(frame) else pb.Stream(zstd=frame)
    size = min(len(raw), len(frame))
    for strategy in (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE):
        if size <= enough:
            break
        blocks = _deflate(raw, strategy)
        if len(blocks) < size:
            best, size = pb.Stream(deflate=blocks), len(blocks)
    return best


def unpack(stream: pb.Stream, size: int) -> bytes:
    """The `size` bytes that `pack` was given. Never inflates more than that.

    Raises FedhftError(MALFORMED_UPDATE) when `stream` is not one that `pack` makes.
    """
    coding = stream.WhichOneof("coding")
    if stream.ByteSize() * _MOST_INFLATION < size:
        raise _malformed(f"{stream.ByteSize()} bytes cannot inflate to {size}")
    try:
        if coding == "zstd":
            raw = _read_zstd(stream.zstd, size)
        elif coding == "deflate":
            raw = _read_deflate(stream.deflate, size)
        else:
            raw = stream.stored
    except (zstandard.ZstdError, zlib.error) as error:
        raise _malformed(str(error)) from error
    if len(raw) != size:
        raise _malformed(f"{len(raw)} bytes, expected {size}")
    return raw


def _deflate(raw: bytes, strategy: int) -> bytes:
    writer = zlib.compressobj(1, zlib.DEFLATED, _RAW_DEFLATE, _LARGEST_BLOCKS, strategy)
    return writer.compress(raw) + writer.flush()


def _read_deflate(data: bytes, size: int) -> bytes:
    if not size:
        raise _malformed("a frame for a stream without bytes")
    reader = zlib.decompressobj(_RAW_DEFLATE)
    # One byte of room beyond the size lets the end of a frame be told from a frame that goes on.
    raw = reader.decompress(data, size + 1)
    if not reader.eof or reader.unused_data or reader.unconsumed_tail:
        raise _malformed("deflate blocks that do not end where they should")
    return raw


def _read_zstd(data: bytes, size: int) -> bytes:
    if not size:
        raise _malformed("a frame for a stream without bytes")
    frame = zstandard.get_frame_parameters(data, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    # A frame that states a size is inflated into a buffer of that size, whatever limit the call sets.
    if frame.content_size not in (zstandard.CONTENTSIZE_UNKNOWN, size):
        raise _malformed(f"a frame of {frame.content_size} bytes, expected {size}")
    return _contexts.reader.decompress(data, max_output_size=size, allow_extra_data=False)


def _malformed(problem: str) -> FedhftError:
    return FedhftError(ErrorCode.MALFORMED_UPDATE, f"coded values cannot be read: {problem}; send the blob again")
