"""The state directory: one agent at a time, one folder per job."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from types import TracebackType

from fedhft.errors import ErrorCode, FedhftError


class StateDirectory:
    """Context manager that holds a directory for this process. The kernel lets go of it when the process dies."""

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
                "name a directory this user may write to",
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

    def job(self, name: str, spec_json: str) -> Path:
        """Folder of a job, made if need be.

        Named after the job and its exact specification: another job that reuses a name never sees foreign state.
        """
        digest = hashlib.sha256(spec_json.encode()).hexdigest()[:12]
        folder = self._path / "jobs" / f"{name}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
