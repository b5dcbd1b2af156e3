"""Contexts: which federation a person talks to, by name, in `~/.config/fedhft/config.toml`.

current = "clinics"

[contexts.clinics]
server = "agg.clinics.example:50051"
admin_server = "agg.clinics.example:50053"
tls_authority = "/home/olga/certs/ca.crt"
tls_certificate = "/home/olga/certs/tls.crt"
tls_key = "/home/olga/certs/tls.key"
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from fedhft.documents import nearest, read_toml
from fedhft.errors import ErrorCode, FedhftError
from fedhft.paths import expanded
from fedhft.rpc.address import parse_address

VARIABLE = "FEDHFT_CONTEXT"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ADDRESSES = ("server", "admin_server")


@dataclass(frozen=True)
class Context:
    """How a federation is reached; what is None is left to options, variables and defaults."""

    server: str | None = None
    """What agents call, host:port."""
    admin_server: str | None = None
    """What people call, host:port."""
    tls_authority: str | None = None
    tls_certificate: str | None = None
    tls_key: str | None = None


KEYS = tuple(one.name for one in fields(Context))


@dataclass(frozen=True)
class Contexts:
    """All contexts of a person, and the one in use."""

    known: Mapping[str, Context] = field(default_factory=dict)
    current: str | None = None

    def named(self, name: str) -> Context:
        """Raises INVALID_ARGUMENT for a name that is not there."""
        if name not in self.known:
            near = nearest(name, list(self.known))
            known = f"did you mean {near}?" if near else f"known: {', '.join(self.known) or 'none'}"
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "context", name, "is not in the list",
                f"{known}; `fedhft config set {name} --admin-server HOST:PORT` adds it",
            )  # fmt: skip
        return self.known[name]

    def with_context(self, name: str, context: Context) -> Contexts:
        """One more, or another in its place; the first one is in use at once. Raises INVALID_ARGUMENT."""
        _check_name(name)
        return Contexts({**self.known, name: context}, self.current or name)

    def without(self, name: str) -> Contexts:
        """All but one. Raises INVALID_ARGUMENT."""
        self.named(name)
        left = {other: context for other, context in self.known.items() if other != name}
        return Contexts(left, None if self.current == name else self.current)

    def using(self, name: str) -> Contexts:
        """With another one in use. Raises INVALID_ARGUMENT."""
        self.named(name)
        return replace(self, current=name)


def config_file() -> Path:
    """Where contexts are kept: under XDG_CONFIG_HOME, else under ~/.config.

    Raises INVALID_ARGUMENT for a user without a home directory, as containers have.
    """
    root = os.environ.get("XDG_CONFIG_HOME", "")
    if Path(root).is_absolute():  # the specification asks to ignore others
        return Path(root) / "fedhft" / "config.toml"
    try:
        return Path.home() / ".config" / "fedhft" / "config.toml"
    except RuntimeError as error:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "contexts", "", "this user has no home directory to keep them in",
            "set XDG_CONFIG_HOME to a folder, or give --server and the TLS files instead",
        ) from error  # fmt: skip


def read_contexts() -> Contexts:
    """What the file says; nothing where there is none. Raises INVALID_ARGUMENT."""
    path = config_file()
    try:
        if not path.is_file():
            return Contexts()
    except OSError as error:  # of a folder that another user owns
        raise _unreadable(path, error) from error
    where = f"contexts = {str(path)!r}"
    table = read_toml(path, where, ErrorCode.INVALID_ARGUMENT)
    _check_keys(table, ("current", "contexts"), where)
    tables, current = table.get("contexts", {}), table.get("current")
    if not isinstance(tables, dict) or not isinstance(current, str | None):
        raise FedhftError(ErrorCode.INVALID_ARGUMENT, f"{where}: current is a name, contexts is a table; correct it")
    contexts = Contexts({_check_name(name): _context(values, f"{where}: {name}") for name, values in tables.items()})
    return contexts.using(current) if current else contexts


def chosen_context(name: str | None) -> Context:
    """The context of --context or FEDHFT_CONTEXT, else the one in use, else one that says nothing.

    A file that cannot be read, or a user without a home, matters only where a context is asked for.
    Raises INVALID_ARGUMENT.
    """
    if name:
        return read_contexts().named(name)
    try:
        if not config_file().is_file():
            return Context()
    except (OSError, FedhftError):
        return Context()
    contexts = read_contexts()
    return contexts.known[contexts.current] if contexts.current else Context()


def write_contexts(contexts: Contexts) -> Path:
    """Replace the file at once, readable by its owner only; returns it. Raises INVALID_ARGUMENT."""
    path = config_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".config.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(_as_toml(contexts))
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "contexts", str(path), f"cannot be written ({error.strerror or error})",
            "make the folder writable, or set XDG_CONFIG_HOME to another",
        ) from error  # fmt: skip
    return path


def checked(context: Context, given: Mapping[str, str | None]) -> Context:
    """A context with some values replaced; empty text removes one. Files become absolute paths.

    Raises INVALID_ARGUMENT for an address that is none.
    """
    values = {}
    for name, value in given.items():
        if value is None:
            continue
        if value and name in _ADDRESSES:
            parse_address(value, "--" + name.replace("_", "-"))
        elif value:
            value = str(expanded(value).absolute())
        values[name] = value or None
    return replace(context, **values)


def _as_toml(contexts: Contexts) -> str:
    lines = ["# Written by `fedhft config`, which does not keep comments."]
    if contexts.current:
        lines.append(f"current = {_quoted(contexts.current)}")
    for name, context in contexts.known.items():
        lines += ["", f"[contexts.{_quoted(name)}]"]
        lines += [f"{key} = {_quoted(value)}" for key in KEYS if (value := getattr(context, key)) is not None]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A basic string of TOML, which is one of JSON but for the character DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _context(values: object, where: str) -> Context:
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise FedhftError(ErrorCode.INVALID_ARGUMENT, f"{where}: a context is a table of texts; correct it")
    _check_keys(values, KEYS, where)
    return Context(**values)


def _check_keys(table: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            near = nearest(key, known)
            fix = f"did you mean {near}?" if near else f"known: {', '.join(known)}"
            raise FedhftError(ErrorCode.INVALID_ARGUMENT, f"{where}: {key} is an unknown key; {fix}")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "context", name, "is not a name",
            "use 1 to 63 letters, digits, dots, dashes and underscores, the first a letter or digit",
        )  # fmt: skip
    return name


def _unreadable(path: Path, error: OSError) -> FedhftError:
    return FedhftError.field(
        ErrorCode.INVALID_ARGUMENT, "contexts", str(path), f"cannot be read ({error.strerror or error})",
        "check its rights, or set XDG_CONFIG_HOME to another folder",
    )  # fmt: skip
