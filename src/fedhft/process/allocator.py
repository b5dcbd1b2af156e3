"""The C allocator: memory that one thread frees becomes usable by all others, and free memory goes back."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGE_BYTES = 512 << 10
_SPARE_BYTES = 8 << 20


def bound_arenas() -> bool:
    """Let all threads share one arena, and give large blocks back at once. False where the C library is not glibc.

    By default glibc gives threads up to eight arenas per core, and memory freed in one arena is of no use to another:
    serving 200 clients with 4 MiB updates, half of the resident memory was free blocks. Several arenas would reduce
    contention, but under Python's lock there is none. Blocks of 128 KiB and more (pieces of updates, tensors, sums) are
    mapped individually, so that none pins the heap below it; by default glibc raises that threshold to the largest
    block freed so far. Must run before the first thread starts, and so before numpy and gRPC are imported.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGE_BYTES), (_TRIM_THRESHOLD, _SPARE_BYTES))
    accepted = [mallopt(name, value) == 1 for name, value in wanted]
    return all(accepted)


def give_back() -> bool:
    """Return what is free on the heap to the system. False where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True
