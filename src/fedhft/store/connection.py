"""Connections to Redis: bounded in time and number, one round trip per script, errors translated into ours."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from fedhft.errors import ErrorCode, FedhftError
from fedhft.store import refusals
from fedhft.store.password_file import PasswordFile
from fedhft.telemetry import metrics

Argument = str | bytes | int
"""One argument of a command."""

_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)
_STATE = re.compile(r"(?:^|-)(?:LOADING|BUSY|MISCONF|READONLY|MASTERDOWN|NOREPLICAS|TRYAGAIN|CLUSTERDOWN) ")
"""In an error: the server takes no commands for a while. First, or after a dash where a script quotes it."""
_STATES = (ReadOnlyError, MasterDownError, TryAgainError, ClusterDownError)
"""The same where redis-py has put a class in the place of the first word. (BusyLoadingError is a ConnectionError.)"""
_DENIED = (AuthenticationError, NoPermissionError)


@dataclass(frozen=True)
class ConnectionSettings:
    """How long to wait for Redis, and how many connections to open."""

    connect_s: float = 2.0
    """Seconds to open a connection."""
    answer_s: float = 10.0
    """Seconds for one command in total: waiting for a free connection, opening it, the answer."""
    connections: int = 32
    """Most connections of one process for scripts, and as many again for other commands; any more wait for one."""


@dataclass(frozen=True)
class Script:
    """One transition: its Lua text and the digest under which Redis knows it."""

    text: str
    sha1: str


@cache
def script(name: str) -> Script:
    """The script in `lua/<name>.lua`, with what it includes from `lua/included`."""
    folder = files("fedhft.store").joinpath("lua")
    text = folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
    text = _INCLUDE.sub(lambda found: folder.joinpath("included", f"{found[1]}.lua").read_text(encoding="utf-8"), text)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class RedisConnection:
    """A bounded pool of connections to one server.

    Nothing is sent twice: a command whose answer was lost may have been carried out, and only the caller knows whether
    repeating it is harmless. Connections that died while idle are replaced before they are used.

    Time is bounded by `asyncio.timeout` around each command and not by the client's own socket timeout: that one sends
    inside `asyncio.wait_for`, which on Python 3.11 can swallow a cancellation, and the cancelled task would run on.
    """

    def __init__(self, url: str, settings: ConnectionSettings | None = None, password_file: Path | None = None) -> None:
        """Raises INVALID_ARGUMENT for a URL or a password file that cannot be used."""
        settings = settings or ConnectionSettings()
        self.where = _without_credentials(url)
        self._settings = settings
        self._url = url
        self._credentials: CredentialProvider | None = None
        if password_file is not None:
            self._url, self._credentials = _with_password_of(url, password_file)
        self._connections = self._pool(settings.connections)
        self._places = asyncio.Semaphore(settings.connections)
        self._idle: list[AbstractConnection] = []
        self._client = Redis.from_pool(self._connections)
        # Typed here once: redis-py leaves these without annotations.
        self._execute: Callable[..., Awaitable[Any]] = self._client.execute_command
        self._make: Callable[[], AbstractConnection] = self._connections.make_connection

    def _pool(self, connections: int) -> BlockingConnectionPool:
        try:
            return BlockingConnectionPool.from_url(
                self._url,
                max_connections=connections,
                timeout=None,
                socket_timeout=None,
                socket_connect_timeout=self._settings.connect_s,
                **({} if self._url.startswith("unix:") else {"socket_keepalive": True}),
                retry=Retry(NoBackoff(), 0),
                protocol=2,
                credential_provider=self._credentials,
            )
        except ValueError as error:
            raise _malformed(self.where, str(error)) from error

    async def call(self, *command: Argument) -> Any:
        """Run one command. Raises STORE_UNAVAILABLE, STORE_FULL."""
        metrics.STORE_ROUND_TRIPS.inc()
        try:
            async with self.bounded():
                return await self._execute(*command)
        except (RedisError, OSError) as error:
            raise self.refusal(error) from error

    async def together(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """Run independent commands in one round trip. What must be one step is a script.

        (Not MULTI: a server that is out of memory refuses even reads and deletions inside one.)
        """
        metrics.STORE_ROUND_TRIPS.inc()
        try:
            async with self.bounded(), self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return list(await pipeline.execute())
        except (RedisError, OSError) as error:
            raise self.refusal(error) from error

    async def run(self, name: str, keys: tuple[str, ...], *arguments: Argument) -> list[Any]:
        """Run the script `lua/<name>.lua` in one round trip (a second one when the server does not know it yet)."""
        wanted = script(name)
        metrics.STORE_ROUND_TRIPS.inc()
        try:
            async with self.bounded():
                try:
                    found = await self._send("EVALSHA", wanted.sha1, len(keys), *keys, *arguments)
                except NoScriptError:
                    found = await self._send("EVAL", wanted.text, len(keys), *keys, *arguments)
        except (RedisError, OSError) as error:
            raise self.refusal(error) from error
        return list(found)

    async def _send(self, *command: Argument) -> Any:
        """One command whose answer needs no conversion, over a connection kept here.

        What the client and its pool do around that (events, counts, locks, conversions) takes as long as the command
        itself, and every call of an agent sends a script.
        """
        async with self._places:
            connection = self._idle.pop() if self._idle else self._make()
            try:
                await self._connections.ensure_connection(connection)  # one that died while idle is replaced
                await connection.send_command(*command)
                return await connection.read_response()
            finally:
                self._idle.append(connection)

    def bounded(self) -> asyncio.Timeout:
        """The time limit of one command."""
        return asyncio.timeout(self._settings.answer_s)

    def subscriber(self) -> PubSub:
        """A subscription with a connection of its own, outside the pool that commands use."""
        return Redis.from_pool(self._pool(1)).pubsub()

    async def close(self) -> None:
        """Close all connections."""
        for connection in self._idle:
            await connection.disconnect()
        self._idle.clear()
        await self._client.aclose()

    def refusal(self, error: Exception) -> FedhftError:
        """What an error of Redis, or of the connection to it, means to our callers."""
        text = str(error) or f"no answer in {self._settings.answer_s:g} s"
        if isinstance(error, _DENIED):
            return refusals.unavailable(self.where, f"refuses access ({text}); set a user and password that may use it")
        if not isinstance(error, ResponseError):
            return refusals.unavailable(self.where, f"does not answer ({text})")
        if "command not allowed when used memory" in text:
            return refusals.full(self.where, "is out of memory")
        if isinstance(error, _STATES) or _STATE.search(text):
            return refusals.unavailable(self.where, f"accepts no commands at the moment ({text})")
        return FedhftError(ErrorCode.INTERNAL, f"redis refused a command: {text}")


def _malformed(where: str, problem: str) -> FedhftError:
    fix = "use redis://host:port/db, rediss://host:port/db or unix:///path?db=0"
    return FedhftError.field(ErrorCode.INVALID_ARGUMENT, "store url", where, problem, fix)


def _without_credentials(url: str) -> str:
    """The URL for messages: without user, password and query.

    Raises INVALID_ARGUMENT for a URL that cannot be read, without repeating what may be a part of the password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:  # brackets that do not match, a port that is not a number
        if "@" in url:
            raise _unescaped(url) from None
        raise _malformed(url, str(error)) from error
    astray = parts.path + parts.fragment if parts.hostname else parts.path + parts.fragment + parts.query
    if parts.scheme in ("redis", "rediss") and "@" in astray:
        raise _unescaped(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _with_password_of(url: str, file: Path) -> tuple[str, CredentialProvider]:
    """The URL without its user, and what provides user and password."""
    parts = urlsplit(url)
    if parts.password:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--redis-password-file", str(file), "and the store url both hold a password",
            "keep the file, and take the password out of the url",
        )  # fmt: skip
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return bare, PasswordFile(file, unquote(parts.username or ""))


def _unescaped(url: str) -> FedhftError:
    return FedhftError.field(
        ErrorCode.INVALID_ARGUMENT, "store url", f"***@{url.rpartition('@')[2]}", "cannot be read",
        "percent-encode user and password: write # as %23, / as %2F, ? as %3F, : as %3A, @ as %40; or put the password "
        "as it is into a file, for --redis-password-file",
    )  # fmt: skip
