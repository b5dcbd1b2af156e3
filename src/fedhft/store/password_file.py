"""The password of a Redis in a file, as Kubernetes and systemd hand secrets out: it needs no encoding."""

from __future__ import annotations

from pathlib import Path

from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError

from fedhft.errors import ErrorCode, FedhftError

_LONGEST_BYTES = 4096


class PasswordFile(CredentialProvider):
    """Reads the file at every connection, so that the password may be replaced while a service runs."""

    def __init__(self, path: Path, user: str = "") -> None:
        """Raises INVALID_ARGUMENT for a file that cannot be read or holds no password."""
        self._path = path
        self._user = user
        try:
            self._password()
        except OSError as error:
            raise _unusable(path, f"cannot be read ({error.strerror or error})") from error

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """User, if there is one, and password. Raises redis' ConnectionError, which callers translate."""
        try:
            password = self._password()
        except (OSError, FedhftError) as error:
            text = error.message if isinstance(error, FedhftError) else f"{self._path}: {error.strerror or error}"
            raise RedisConnectionError(text) from error
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The same: a small file on this machine is not worth a thread."""
        return self.get_credentials()

    def _password(self) -> str:
        with self._path.open("rb") as file:
            data = file.read(_LONGEST_BYTES + 1)
        try:
            text = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise _unusable(self._path, "is not UTF-8 text") from None
        if not text or len(data) > _LONGEST_BYTES or "\n" in text:
            raise _unusable(self._path, "does not hold one line of 1 to 4096 bytes")
        return text


def _unusable(path: Path, problem: str) -> FedhftError:
    return FedhftError.field(
        ErrorCode.INVALID_ARGUMENT, "--redis-password-file", str(path), problem, "write the password alone into it"
    )
