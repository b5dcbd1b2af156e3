"""The marker in a directory of blobs: which store it belongs to.

A volume that is not mounted leaves an empty folder under its path. Without a marker, blobs would be written into that
folder, acknowledged, and gone when the volume is back; and updates on the volume would seem lost. So the folder carries
the store's id, and nothing is read or written where it does not.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Protocol

from fedhft.store import refusals

MARKER = "fedhft-store"
"""Name of the marker file in the root."""


class StoreIdentity(Protocol):
    """Who a store is, kept where its round state is."""

    async def read(self) -> tuple[str, bool]:
        """The store's id, made when first asked for, and whether its directory of blobs has been marked."""
        ...

    async def marked(self) -> None:
        """Note that the directory of blobs carries the id, so that it is never marked again."""
        ...


def mark(root: Path, store: str) -> None:
    """Make a root the one of this store, unless it already is. Raises STORE_UNAVAILABLE when it is another store's."""
    root.mkdir(parents=True, exist_ok=True)
    new = root / f".{MARKER}-{secrets.token_hex(8)}"
    try:
        new.write_text(store, encoding="ascii")
        with new.open("rb") as file:
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # of two replicas that start at once, one is the first
            os.link(new, root / MARKER)
    finally:
        new.unlink(missing_ok=True)
    check(root, store)


def check(root: Path, store: str) -> None:
    """Raises STORE_UNAVAILABLE unless the root carries the store's id."""
    try:
        found = (root / MARKER).read_bytes()[:100].decode("ascii", "replace")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise refusals.unavailable(
            f"dir:{root}", f"has no file {MARKER!r} of this store in it: its volume is not mounted, or it was emptied"
        ) from error
    if found != store:
        raise refusals.unavailable(
            f"dir:{root}",
            f"belongs to store {found[:16]!r} by its file {MARKER!r}, this is store {store[:16]!r}; if that store is "
            "gone for good, delete the file",
        )
