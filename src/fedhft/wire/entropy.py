"""The entropy stage: a byte stream of known size, as it is or as a zstd frame, whichever is shorter.

Codes of a trained adapter look like noise, so matches found in them are accidents. zstd's `fast` strategy with its
longest minimum match leaves nearly every byte to the Huffman stage, which stays within about one percent of the
zeroth-order entropy from 16 KiB up and costs a tenth of a millisecond for 64 KiB. Streams that shrink a lot
are full of zeros or repeats; for them the slower optimal parser is tried as well.
"""

from __future__ import annotations

import threading

import zstandard
from zstandard import ZstdCompressionParameters

from fedhft.errors import ErrorCode, FedhftError

_SHRINKS_A_LOT = 0.6
_WORTH_TRYING = 16


def _parameters(level: int, strategy: int) -> ZstdCompressionParameters:
    # The reader knows the size and the blob has a digest, so the frame carries neither size nor checksum nor magic.
    return ZstdCompressionParameters.from_level(
        level,
        strategy=strategy,
        min_match=7 if strategy == zstandard.STRATEGY_FAST else 6,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=0,
        write_checksum=0,
        write_dict_id=0,
    )


class _Contexts(threading.local):
    """zstd contexts are costly to make and not safe to share between threads."""

    def __init__(self) -> None:
        self.fast = zstandard.ZstdCompressor(compression_params=_parameters(1, zstandard.STRATEGY_FAST))
        self.thorough = zstandard.ZstdCompressor(compression_params=_parameters(16, zstandard.STRATEGY_BTOPT))
        self.reader = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)


_contexts = _Contexts()


def pack(raw: bytes) -> bytes:
    """Code a stream. Never longer than `raw`; exactly as long only when it *is* `raw`. Deterministic."""
    if len(raw) < _WORTH_TRYING:
        return raw
    packed = _contexts.fast.compress(raw)
    if len(packed) < _SHRINKS_A_LOT * len(raw):
        packed = min(packed, _contexts.thorough.compress(raw), key=len)
    return packed if len(packed) < len(raw) else raw


def unpack(data: bytes, size: int) -> bytes:
    """The `size` bytes that `pack` was given. Allocates no more than `size`.

    Raises FedhftError(MALFORMED_UPDATE) when `data` is no such stream.
    """
    if len(data) == size:
        return data
    if len(data) > size:
        raise _malformed(f"{len(data)} bytes for a stream of {size}")
    try:
        frame = zstandard.get_frame_parameters(data, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
        # A frame that states a size is inflated into a buffer of that size, whatever limit the call sets.
        if frame.content_size not in (zstandard.CONTENTSIZE_UNKNOWN, size):
            raise _malformed(f"a frame of {frame.content_size} bytes where {size} belong")
        raw: bytes = _contexts.reader.decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _malformed(str(error)) from error
    if len(raw) != size:
        raise _malformed(f"a frame of {len(raw)} bytes where {size} belong")
    return raw


def _malformed(problem: str) -> FedhftError:
    return FedhftError(ErrorCode.MALFORMED_UPDATE, f"coded values cannot be read: {problem}; send the blob again")
