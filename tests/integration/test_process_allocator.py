"""The allocator settings of a server hold in a process of their own: they cannot be taken back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_COUNT_ARENAS = """
import ctypes, sys, threading
from fedhft.process.allocator import bound_arenas
if sys.argv[1] == "bounded" and not bound_arenas():
    sys.exit("glibc refused the settings")
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
together = threading.Barrier(6)
def use():
    together.wait(30)
    ctypes.c_void_p(libc.malloc(50_000))
    together.wait(30)
threads = [threading.Thread(target=use) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def arenas(kind: str) -> int:
    done = subprocess.run([sys.executable, "-c", _COUNT_ARENAS, kind], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_all_threads_share_one_arena() -> None:
    assert arenas("bounded") == 1
    assert arenas("default") > 1
