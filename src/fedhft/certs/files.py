"""Files of an authority: written whole or not at all, private where they must be, never over another by accident."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from fedhft.errors import ErrorCode, FedhftError


def write_file(path: Path, content: bytes, *, private: bool, replace: bool) -> None:
    """Write a file through a temporary one beside it, synced, and rename it into place.

    private: mode 0600 from the first byte on, else 0644. Without `replace` an existing file is refused.
    Raises FedhftError(INVALID_ARGUMENT).
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            if replace:
                part.replace(path)
            else:
                path.hardlink_to(part)  # unlike a rename, this fails when the file exists
        finally:
            part.unlink(missing_ok=True)
    except FileExistsError as error:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "file", str(path), "exists and is not overwritten", "move it away first"
        ) from error
    except OSError as error:
        raise _unusable(path, f"cannot be written ({error.strerror})") from error


def read_file(path: Path) -> bytes:
    """A file's bytes. Raises FedhftError(INVALID_ARGUMENT)."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(path, f"cannot be read ({error.strerror})") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process, so that two commands do not both change its index.

    Raises FedhftError(INVALID_ARGUMENT) when another command has it.
    """
    import fcntl  # Unix only, like the services

    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unusable(folder, f"cannot be opened ({error.strerror})") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "--dir", str(folder), "is in use by another command", "wait for it to end"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _unusable(path: Path, problem: str) -> FedhftError:
    return FedhftError.field(ErrorCode.INVALID_ARGUMENT, "file", str(path), problem, "check path and permissions")
