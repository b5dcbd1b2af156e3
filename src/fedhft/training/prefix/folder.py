"""The folder in which an agent keeps the rows of its frozen prefixes, within a size.

    FOLDER/lock
    FOLDER/<digest of the identity>/{about.json, rows.bin, rows.idx}

One sub-folder for everything that the values depend on: base model, boundary, arithmetic, versions. So a wrong reuse
cannot be asked for. When there is no room, sub-folders go that nothing in this process uses, oldest first; then what
does not fit is worked out each time. A folder that cannot be used costs time and a warning, never the job.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedhft.telemetry import metrics
from fedhft.training.prefix.rows import VALUES, RowFile

log = logging.getLogger(__name__)

SPARE_BYTES = 256 << 20
"""Left free on the disk, which the agent's state may share."""
_ASK_EVERY = 32 << 20
"""Bytes after which the disk is asked again how much is free."""
_ABOUT = "about.json"


class PrefixFolder:
    """Row files by identity, together at most `limit` bytes. Use `open`."""

    def __init__(self, path: Path, limit: int, lock: int) -> None:
        self.path = path
        self.limit = limit
        self._files: dict[str, RowFile | None] = {}
        self._warned: set[str] = set()
        self._allowance = 0
        self._bytes = sum(_size(folder) for folder in path.iterdir() if folder.is_dir())
        self._unlock = weakref.finalize(self, os.close, lock)
        metrics.AGENT_PREFIX_BYTES.set(self._bytes)

    @classmethod
    def open(cls, path: Path, limit: int) -> PrefixFolder | None:
        """The folder, for this process alone. None, with a warning, where that cannot be."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return cls(path, limit, lock)
            except OSError:
                os.close(lock)
                raise
        except OSError as error:
            busy = isinstance(error, BlockingIOError)
            metrics.AGENT_PREFIX_FAULTS.labels(fault="busy" if busy else "unwritten").inc()
            log.warning(
                "the cache of the frozen prefix cannot be used, so it is worked out in every pass; "
                + ("give each agent a --cache of its own" if busy else "give another folder with --cache, or off"),
                extra={"folder": str(path), "detail": error.strerror or str(error)},
            )
            return None

    def close(self) -> None:
        """Let another process have the folder. Idempotent."""
        self._unlock()

    def rows(self, identity: Mapping[str, object], width: int, dtype: np.dtype[Any]) -> RowFile | None:
        """The row file of an identity, made where there is none. None, with a warning, where that cannot be."""
        about = json.dumps({**identity, "width": width, "dtype": str(dtype)}, sort_keys=True, indent=1)
        name = hashlib.sha256(about.encode()).hexdigest()[:24]
        if name not in self._files:
            self._files[name] = self._open(self.path / name, about, width, dtype)
        return self._files[name]

    def unwritten(self, error: OSError) -> None:
        """Note that a row could not be written: nothing is written from now on."""
        self.limit = 0
        self._warn("unwritten", "rows of the frozen prefix cannot be written", error.strerror or str(error))

    def damaged(self, folder: Path) -> None:
        """Note that a row was damaged; it is worked out again."""
        metrics.AGENT_PREFIX_FAULTS.labels(fault="damaged").inc()
        if "damaged" not in self._warned:
            self._warned.add("damaged")
            log.warning("rows of the frozen prefix are damaged and worked out again", extra={"folder": str(folder)})

    def _open(self, folder: Path, about: str, width: int, dtype: np.dtype[Any]) -> RowFile | None:
        try:
            found = RowFile(folder, width, dtype, self._room)
            (folder / _ABOUT).write_text(about, encoding="utf-8")
            os.utime(folder / VALUES)
            return found
        except OSError as error:
            self.unwritten(error)
            return None

    def _room(self, count: int) -> bool:
        """Whether `count` more bytes may be written."""
        if not self.limit:
            return False
        if self._bytes + count > self.limit and not self._make_room(count):
            self._warn("full", "the cache of the frozen prefix is full; raise --cache-size", f"{self.limit} bytes")
            return False
        if self._allowance < count:
            spare = shutil.disk_usage(self.path).free - SPARE_BYTES
            if spare < count:
                self.limit = 0
                self._warn("full", "the disk is nearly full", f"{spare + SPARE_BYTES} bytes")
                return False
            self._allowance = min(spare, max(count, _ASK_EVERY))
        self._allowance -= count
        self._bytes += count
        metrics.AGENT_PREFIX_BYTES.set(self._bytes)
        return True

    def _make_room(self, count: int) -> bool:
        """Remove sub-folders that are not in use, the one that was used longest ago first."""
        unused = [folder for folder in self.path.iterdir() if folder.is_dir() and folder.name not in self._files]
        for folder in sorted(unused, key=_used):
            if self._bytes + count <= self.limit:
                break
            size = _size(folder)
            shutil.rmtree(folder, ignore_errors=True)
            self._bytes -= size
        return self._bytes + count <= self.limit

    def _warn(self, fault: str, message: str, detail: str) -> None:
        if fault in self._warned:
            return
        self._warned.add(fault)
        metrics.AGENT_PREFIX_FAULTS.labels(fault=fault).inc()
        log.warning(
            f"{message}; what is not kept is worked out in every pass",
            extra={"folder": str(self.path), "detail": detail},
        )


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def _used(folder: Path) -> float:
    values = folder / VALUES
    return values.stat().st_mtime if values.is_file() else 0.0
