"""The authority's memory: every certificate it ever issued, one JSON object per line, oldest first.

A line per certificate keeps damage local and the file readable; a change writes the whole file anew and renames it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from fedhft.certs.files import write_file
from fedhft.documents import parse_json
from fedhft.errors import ErrorCode, FedhftError
from fedhft.identity import Identity, parse_identity


@dataclass(frozen=True)
class Entry:
    """One certificate."""

    serial: str
    """Serial number, hexadecimal, as in a deny list."""
    identity: Identity
    not_after: datetime
    """UTC."""
    hosts: tuple[str, ...] = ()
    revoked: datetime | None = None
    """When it was revoked; None while it is not."""
    reason: str = ""
    """Why it was revoked."""

    def state(self, now: datetime) -> str:
        """valid, expired or revoked."""
        if self.revoked is not None:
            return "revoked"
        return "valid" if now < self.not_after else "expired"


@dataclass(frozen=True)
class Index:
    """All entries, oldest first."""

    entries: tuple[Entry, ...] = ()

    def of(self, identity: Identity) -> list[Entry]:
        """The certificates of one holder."""
        return [entry for entry in self.entries if entry.identity == identity]

    def with_entry(self, entry: Entry) -> Index:
        """With one certificate more."""
        return Index((*self.entries, entry))

    def with_revoked(self, serials: Iterable[str], now: datetime, reason: str) -> Index:
        """With these revoked; what already is stays as it was."""
        wanted = set(serials)

        def changed(entry: Entry) -> Entry:
            if entry.serial not in wanted or entry.revoked is not None:
                return entry
            return replace(entry, revoked=now, reason=reason)

        return Index(tuple(map(changed, self.entries)))


def read_index(path: Path) -> Index:
    """The index in a file; empty when there is none. Raises FedhftError(INVALID_ARGUMENT) for a damaged line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return Index()
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, f"cannot be read ({error})") from error
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(_entry(parse_json(line, "entry", ErrorCode.INVALID_ARGUMENT)))
        except (ValueError, TypeError, KeyError, OverflowError, FedhftError) as error:
            raise _damaged(path, f"line {number} is not an entry ({str(error)[:300]})") from error
    return Index(tuple(entries))


def write_index(path: Path, index: Index) -> None:
    """Replace the file. Raises FedhftError."""
    lines = (json.dumps({**asdict(entry), **_texts(entry)}) + "\n" for entry in index.entries)
    write_file(path, "".join(lines).encode(), private=True, replace=True)


def _texts(entry: Entry) -> dict[str, str | None]:
    return {
        "identity": entry.identity.uri,
        "not_after": entry.not_after.isoformat(),
        "revoked": entry.revoked.isoformat() if entry.revoked else None,
    }


def _entry(raw: dict[str, object]) -> Entry:
    hosts = raw["hosts"]
    if not isinstance(hosts, list):
        raise TypeError("hosts is not a list")
    serial = str(raw["serial"])
    int(serial, 16)
    return Entry(
        serial=serial,
        identity=parse_identity(str(raw["identity"])),
        not_after=_time(raw["not_after"]),
        hosts=tuple(map(str, hosts)),
        revoked=None if raw["revoked"] is None else _time(raw["revoked"]),
        reason=str(raw["reason"]),
    )


def _time(value: object) -> datetime:
    return datetime.fromisoformat(str(value)).astimezone(UTC)


def _damaged(path: Path, problem: str) -> FedhftError:
    return FedhftError.field(
        ErrorCode.INVALID_ARGUMENT, "index", str(path), problem, "restore it from a backup, or remove the damaged line"
    )
