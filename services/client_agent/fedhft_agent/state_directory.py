"""The state directory: one agent at a time, one folder per job."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType

from fedhft.errors import ErrorCode, FedhftError


class StateDirectory:
    """Context manager that locks a directory for this process. The kernel releases the lock when the process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> StateDirectory:
        """Raises FedhftError(INVALID_ARGUMENT) when the directory cannot be used or another agent uses it."""
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "--state-dir", str(self._path), f"cannot be used ({error.strerror})",
                "name a directory that this user can write to",
            ) from error  # fmt: skip
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "--state-dir", str(self._path), "another agent is using it",
                "stop that agent, or give each agent a directory of its own",
            ) from error  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def job(self, name: str, spec_digest: bytes) -> Path:
        """Folder of a job; its writer creates it.

        Named after the job and its exact specification, so that a job that reuses a name never sees the other's state.
        """
        return self._path / "jobs" / f"{name}-{spec_digest.hex()[:12]}"

    def forget(self, name: str, spec_digest: bytes) -> None:
        """Remove the folder of a job that is over: its content is of no use outside the job."""
        shutil.rmtree(self.job(name, spec_digest), ignore_errors=True)

    def sweep(self, keep: Collection[Path], older_than_s: float) -> None:
        """Remove folders not in `keep` that were not written to for so long: their jobs ended unseen by this agent."""
        now = time.time()
        for folder in (self._path / "jobs").glob("*"):
            # The newest change anywhere in it; a folder's own time changes only when entries are added or removed.
            written = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
            if folder not in keep and now - written > older_than_s:
                shutil.rmtree(folder, ignore_errors=True)
